"""One `tfx-vision submit`: upload a compiled pipeline, start a run of it, follow it to its verdict."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.nodes import GATE_IDS, KUBEFLOW_NODE_IDS

PUSHED, REFUSED, FAILED, STARTED, SCHEDULED = "pushed", "refused", "failed", "started", "scheduled"

_ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", "ERROR")
_INTERVAL_S = 5.0
# A server that is restarted is away for a minute or two.
_MOST_FAILED_POLLS = 30


class ServerError(Exception):
    """Kubeflow Pipelines does not answer, or says no; the message says what to do."""


@dataclass(frozen=True)
class Target:
    """Where to submit to.

    Attributes:
      host: Address of the API.
      namespace: Of a multi-user installation.
      token: Bearer token.
      ca_certificate: File of the authority that signed the server's.
    """

    host: str
    namespace: str | None = None
    token: str | None = None
    ca_certificate: Path | None = None


@dataclass
class Submission:
    """What became of it.

    Attributes:
      run_id: Of the run, or of the schedule.
      url: Its page.
      status: `started`, `scheduled`, `pushed`, `refused` or `failed`.
      tasks: State of every node that has begun, by name.
      detail: Why the run has not been successful.
    """

    run_id: str
    url: str
    status: str
    tasks: dict[str, str] = field(default_factory=dict)
    detail: str = ""

    @property
    def exit_code(self) -> int:
        """0 pushed (or begun, if nobody waits), 1 failed, 3 refused."""
        return {FAILED: 1, REFUSED: 3}.get(self.status, 0)


class Server:
    """Kubeflow Pipelines' API, by its own client."""

    def __init__(self, target: Target) -> None:
        """Connects.

        Raises:
          ServerError: If nobody answers.
        """
        self._target = target
        with warnings.catch_warnings():
            # Of every version of the client: that servers before 2.0 will not do.
            warnings.simplefilter("ignore")
            import kfp

            with self._asking():
                self._client = kfp.Client(
                    host=target.host,
                    namespace=target.namespace or "kubeflow",
                    existing_token=target.token,
                    ssl_ca_cert=str(target.ca_certificate) if target.ca_certificate else None,
                )

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Makes one message of whatever goes wrong on the way; the client prints addresses, which are not wanted."""
        import kfp_server_api
        import urllib3

        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            advice = {
                401: " Give a valid token (--token-file).",
                403: " The token may not do this in this namespace (--namespace, --token-file).",
                404: " Is this the address of the API, and is it Kubeflow Pipelines 2?",
            }.get(error.status, "")
            raise ServerError(f"{self._target.host} answers {error.status}: {_reason(error)}.{advice}") from None
        except (urllib3.exceptions.HTTPError, TimeoutError) as error:
            raise ServerError(f"{self._target.host} does not answer: {error}") from None
        except ValueError as error:
            # What the client itself refuses, two experiments of one name for example.
            raise ServerError(f"{self._target.host}: {error}") from None

    def upload(self, name: str, documents: Path, version: str) -> tuple[str, str]:
        """Uploads a compiled pipeline, as another version where there is one of that name.

        Returns:
          Ids of the pipeline and of its version.
        """
        named = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        with self._asking():
            known = self._client.list_pipelines(filter=json.dumps(named), namespace=self._target.namespace).pipelines
            if known:
                pipeline_id = known[0].pipeline_id
                uploaded = self._client.upload_pipeline_version(str(documents), version, pipeline_id=pipeline_id)
                return str(pipeline_id), str(uploaded.pipeline_version_id)
            created = self._client.upload_pipeline(str(documents), name, namespace=self._target.namespace)
            if not created.pipeline_id:
                # To the client a page for people is an answer without contents.
                raise ServerError(
                    f"{self._target.host} answers, but not as Kubeflow Pipelines' API does. Is there a login before "
                    "it? Give a token (--token-file)."
                )
            (first,) = self._client.list_pipeline_versions(created.pipeline_id, page_size=1).pipeline_versions
            return str(created.pipeline_id), str(first.pipeline_version_id)

    def start(
        self,
        name: str,
        experiment: str,
        uploaded: tuple[str, str],
        *,
        parameters: dict[str, str],
        pipeline_root: str | None,
        service_account: str | None,
        cron: str | None = None,
    ) -> Submission:
        """Starts a run, or has one started at the times of `cron`."""
        pipeline_id, version_id = uploaded
        said: dict[str, Any] = {
            "job_name": name,
            "pipeline_id": pipeline_id,
            "version_id": version_id,
            "params": parameters,
            "pipeline_root": pipeline_root,
            "service_account": service_account,
        }
        with self._asking():
            found = self._client.create_experiment(experiment, namespace=self._target.namespace)
            host = self._target.host.rstrip("/")
            if cron is not None:
                # One at a time: two runs would push over each other. What was missed is not made up for.
                recurring = self._client.create_recurring_run(
                    found.experiment_id, cron_expression=cron, max_concurrency=1, no_catchup=True, **said
                )
                run_id = recurring.recurring_run_id
                return Submission(run_id, f"{host}/#/recurringrun/details/{run_id}", SCHEDULED)
            run = self._client.run_pipeline(found.experiment_id, **said)
            return Submission(run.run_id, f"{host}/#/runs/details/{run.run_id}", STARTED)

    def follow(
        self,
        submission: Submission,
        *,
        on_task: Callable[[str, str], None] = lambda name, state: None,
    ) -> None:
        """Waits for the end of a run, and sets its status.

        Args:
          submission: From `start`.
          on_task: Called with a node's name and its state whenever that changes.

        Raises:
          ServerError: If the server has been away for long.
        """
        failed_polls = 0
        while True:
            try:
                with self._asking():
                    run = self._client.get_run(submission.run_id)
            except ServerError:
                failed_polls += 1
                if failed_polls > _MOST_FAILED_POLLS:
                    raise
            else:
                failed_polls = 0
                for name, state in states_of(run).items():
                    if submission.tasks.get(name) != state:
                        submission.tasks[name] = state
                        on_task(name, state)
                if run.state in _ENDED:
                    submission.status, submission.detail = verdict(run.state, submission.tasks)
                    return
            time.sleep(_INTERVAL_S)


def states_of(run: Any) -> dict[str, str]:
    """The state of every node of a run. A try that failed has another name; of two the better one counts."""
    states: dict[str, str] = {}
    for task in (run.run_details and run.run_details.task_details) or []:
        if task.display_name in KUBEFLOW_NODE_IDS and task.state and states.get(task.display_name) != "SUCCEEDED":
            states[task.display_name] = task.state
    return states


def verdict(state: str, tasks: dict[str, str]) -> tuple[str, str]:
    """Status and detail of a run that has ended: it is refused if a gate, and nothing but a gate, has failed."""
    if state == "SUCCEEDED":
        return PUSHED, ""
    failed = [name for name in KUBEFLOW_NODE_IDS if tasks.get(name) in ("FAILED", "ERROR")]
    if failed and set(failed) <= set(GATE_IDS):
        what = "the pictures" if failed[0] == GATE_IDS[0] else "the model"
        return REFUSED, f"{failed[0]}: a gate refused {what}; its log says which and why."
    if failed:
        return FAILED, f"{', '.join(failed)} failed; the last line of its log says why."
    return FAILED, f"the run is {state.lower()}, and no node says why; its page may."


def version_name(now: datetime.datetime) -> str:
    """Names a version, or a run, by its time."""
    return now.strftime("%Y-%m-%d %H:%M:%S")


def _reason(error: Any) -> str:
    """The server's own words, without its stack."""
    try:
        said = json.loads(error.body or "{}")
    except ValueError:
        said = {}
    text = str(said.get("error_message") or said.get("message") or said.get("error") or error.reason)
    return text.splitlines()[0].rstrip(".")[:300]
