"""Uploads a compiled pipeline to Kubeflow Pipelines, starts a run, and follows it to the end."""

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
_NO_ACCESS, _NOT_FOUND = (401, 403), 404
# A server that restarts is unavailable for a minute or two.
_MAX_FAILED_POLLS = 30


class ServerError(Exception):
    """Kubeflow Pipelines does not respond, or refuses the request; the message says what to do."""

    def __init__(self, message: str, status: int | None = None) -> None:
        """Takes the message, and the HTTP status of the response, if there is one."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Target:
    """The installation of Kubeflow Pipelines.

    Attributes:
      host: Address of the API.
      namespace: Namespace of a multi-user installation.
      token: Bearer token.
      ca_certificate: Certificate file of the authority that signed the server's certificate.
    """

    host: str
    namespace: str | None = None
    token: str | None = None
    ca_certificate: Path | None = None


@dataclass
class Submission:
    """A submitted run.

    Attributes:
      run_id: Id of the run, or of the recurring run.
      url: Its page.
      status: `started`, `scheduled`, `pushed`, `refused` or `failed`.
      tasks: State of every node that has started, by name.
      detail: Why the run was not successful.
    """

    run_id: str
    url: str
    status: str
    tasks: dict[str, str] = field(default_factory=dict)
    detail: str = ""

    @property
    def exit_code(self) -> int:
        """0 pushed (or started, without waiting), 1 failed, 3 refused."""
        return {FAILED: 1, REFUSED: 3}.get(self.status, 0)


class Server:
    """The API of Kubeflow Pipelines, through its own client."""

    def __init__(self, target: Target) -> None:
        """Connects.

        Raises:
          ServerError: If the server does not respond.
        """
        self._target = target
        with warnings.catch_warnings():
            # Every version of the client warns that servers before 2.0 are not supported.
            warnings.simplefilter("ignore")
            import kfp

            with self._translated_errors():
                self._client = kfp.Client(
                    host=target.host,
                    namespace=target.namespace or "kubeflow",
                    existing_token=target.token,
                    ssl_ca_cert=str(target.ca_certificate) if target.ca_certificate else None,
                )

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turns all errors of the client into one message, and suppresses the addresses that the client prints."""
        import kfp_server_api
        import urllib3

        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            advice = {
                401: " Give a valid token (--token-file).",
                403: " The token has no permission in this namespace (--namespace, --token-file).",
                404: " Check that this is the address of the API of Kubeflow Pipelines 2.",
            }.get(error.status, "")
            message = f"{self._target.host} responds {error.status}: {_reason(error)}.{advice}"
            raise ServerError(message, error.status) from None
        except (urllib3.exceptions.HTTPError, TimeoutError) as error:
            raise ServerError(f"{self._target.host} does not respond: {error}") from None
        except ValueError as error:
            # Errors of the client itself, for example two experiments with one name.
            raise ServerError(f"{self._target.host}: {error}") from None

    def upload(self, name: str, documents: Path, version: str) -> tuple[str, str]:
        """Uploads a compiled pipeline, as a new version if a pipeline of that name exists.

        Returns:
          Ids of the pipeline and of the version.
        """
        with self._translated_errors():
            pipeline_id = self._pipeline_id(name)
            if pipeline_id is not None:
                uploaded = self._client.upload_pipeline_version(str(documents), version, pipeline_id=pipeline_id)
                return pipeline_id, str(uploaded.pipeline_version_id)
            created = self._client.upload_pipeline(str(documents), name, namespace=self._target.namespace)
            if not created.pipeline_id:
                # The client reads an HTML page as an empty response.
                raise ServerError(
                    f"{self._target.host} responds, but not as the API of Kubeflow Pipelines. If it has a login page, "
                    "give a token (--token-file)."
                )
            (first,) = self._client.list_pipeline_versions(created.pipeline_id, page_size=1).pipeline_versions
            return str(created.pipeline_id), str(first.pipeline_version_id)

    def _pipeline_id(self, name: str) -> str | None:
        """Finds a pipeline, on all pages of the list; None if it does not exist."""
        name_filter = {"predicates": [{"operation": "EQUALS", "key": "display_name", "string_value": name}]}
        token = ""
        while True:
            page = self._client.list_pipelines(
                page_token=token, filter=json.dumps(name_filter), namespace=self._target.namespace
            )
            for pipeline in page.pipelines or []:
                if pipeline.display_name == name:
                    return str(pipeline.pipeline_id)
            token = page.next_page_token
            if not token:
                return None

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
        """Starts a run, or a recurring run with the schedule `cron`."""
        pipeline_id, version_id = uploaded
        run_options: dict[str, Any] = {
            "job_name": name,
            "pipeline_id": pipeline_id,
            "version_id": version_id,
            "params": parameters,
            "pipeline_root": pipeline_root,
            "service_account": service_account,
        }
        with self._translated_errors():
            created = self._client.create_experiment(experiment, namespace=self._target.namespace)
            host = self._target.host.rstrip("/")
            if cron is not None:
                # One at a time: two runs would replace each other's model. Missed runs are not made up for.
                recurring = self._client.create_recurring_run(
                    created.experiment_id, cron_expression=cron, max_concurrency=1, no_catchup=True, **run_options
                )
                run_id = recurring.recurring_run_id
                return Submission(run_id, f"{host}/#/recurringrun/details/{run_id}", SCHEDULED)
            run = self._client.run_pipeline(created.experiment_id, **run_options)
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
          on_task: Called with the name of a node and its state whenever that changes.

        Raises:
          ServerError: If the server is unavailable for several minutes, or no longer accepts the token.
        """
        failed_polls = 0
        while True:
            try:
                with self._translated_errors():
                    run = self._client.get_run(submission.run_id)
            except ServerError as error:
                if error.status == _NOT_FOUND:
                    submission.status, submission.detail = FAILED, "the run was deleted before its end."
                    return
                failed_polls += 1
                if error.status in _NO_ACCESS or failed_polls > _MAX_FAILED_POLLS:
                    raise ServerError(f"{error} The run continues: {submission.url}", error.status) from None
            else:
                failed_polls = 0
                for name, state in task_states(run).items():
                    if submission.tasks.get(name) != state:
                        submission.tasks[name] = state
                        on_task(name, state)
                if run.state in _ENDED:
                    submission.status, submission.detail = final_status(run.state, submission.tasks)
                    return
            time.sleep(_INTERVAL_S)


def task_states(run: Any) -> dict[str, str]:
    """The state of every node of a run. A failed attempt has another name; of two attempts the better one counts."""
    states: dict[str, str] = {}
    for task in (run.run_details and run.run_details.task_details) or []:
        if task.display_name in KUBEFLOW_NODE_IDS and task.state and states.get(task.display_name) != "SUCCEEDED":
            states[task.display_name] = task.state
    return states


def final_status(state: str, tasks: dict[str, str]) -> tuple[str, str]:
    """Status and detail of a run that has ended. It is refused if gates failed, and no other node."""
    if state == "SUCCEEDED":
        return PUSHED, ""
    failed = [name for name in KUBEFLOW_NODE_IDS if tasks.get(name) in ("FAILED", "ERROR")]
    if failed and set(failed) <= set(GATE_IDS):
        subject = "the images" if failed[0] == GATE_IDS[0] else "the model"
        return REFUSED, f"{failed[0]}: a gate refused {subject}; the message of the node says which gate and why."
    if failed:
        return FAILED, f"{', '.join(failed)} failed; the message of the node gives the reason."
    return FAILED, f"the run is {state.lower()}, and no node gives a reason; see its page."


def version_name(now: datetime.datetime) -> str:
    """Name of a version, or of a run: its time."""
    return now.strftime("%Y-%m-%d %H:%M:%S")


def _reason(error: Any) -> str:
    """The server's message, without its stack trace."""
    try:
        body = json.loads(error.body or "{}")
    except ValueError:
        body = {}
    text = str(body.get("error_message") or body.get("message") or body.get("error") or error.reason)
    return text.splitlines()[0].rstrip(".")[:300]
