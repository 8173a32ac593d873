"""`tfx-vision submit` against a server that answers as Kubeflow Pipelines' API does, on 127.0.0.1."""

from __future__ import annotations

import asyncio
import email
import json
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.kubeflow import submission

TOKEN = "let me in"
ALL = ["ImageExampleGen", "ExampleValidator", "PicturesGate", "Trainer", "Pusher", "ModelReport", "ModelGate"]


class _FakePipelines:
    """Experiments, pipelines, versions, runs and recurring runs, in memory.

    Attributes:
      polls: What `GET run` answers, one after another: state and states of the tasks; `None` is an error 503.
    """

    def __init__(self):
        self.experiments, self.pipelines, self.versions, self.runs, self.recurring = [], [], [], [], []
        self.polls = [("SUCCEEDED", {})]
        self.tokens = set()
        prefix = "/apis/v2beta1"
        self.app = Starlette(
            routes=[
                Route(f"{prefix}/healthz", self.healthz),
                Route(f"{prefix}/experiments", self.list_experiments, methods=["GET"]),
                Route(f"{prefix}/experiments", self.create_experiment, methods=["POST"]),
                Route(f"{prefix}/pipelines", self.list_pipelines, methods=["GET"]),
                Route(f"{prefix}/pipelines/upload", self.upload, methods=["POST"]),
                Route(f"{prefix}/pipelines/upload_version", self.upload_version, methods=["POST"]),
                Route(f"{prefix}/pipelines/{{id}}/versions", self.list_versions, methods=["GET"]),
                Route(f"{prefix}/runs", self.create_run, methods=["POST"]),
                Route(f"{prefix}/runs/{{id}}", self.get_run, methods=["GET"]),
                Route(f"{prefix}/recurringruns", self.create_recurring, methods=["POST"]),
            ]
        )

    def refuse(self, request: Request):
        self.tokens.add(request.headers.get("authorization"))
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": "Unauthenticated: no token\nstack", "code": 16}, status_code=401)
        return None

    async def healthz(self, request: Request):
        return JSONResponse({"multi_user": False})

    async def list_experiments(self, request: Request):
        if refused := self.refuse(request):
            return refused
        (wanted,) = json.loads(request.query_params["filter"])["predicates"]
        found = [said for said in self.experiments if said["display_name"] == wanted["stringValue"]]
        return JSONResponse({"experiments": found} if found else {})

    async def create_experiment(self, request: Request):
        said = {**await request.json(), "experiment_id": f"e{len(self.experiments)}"}
        self.experiments.append(said)
        return JSONResponse(said)

    async def list_pipelines(self, request: Request):
        if refused := self.refuse(request):
            return refused
        (wanted,) = json.loads(request.query_params["filter"])["predicates"]
        found = [said for said in self.pipelines if said["display_name"] == wanted["stringValue"]]
        return JSONResponse({"pipelines": found} if found else {})

    async def upload(self, request: Request):
        said = {"pipeline_id": f"p{len(self.pipelines)}", "display_name": request.query_params["name"]}
        self.pipelines.append(said | dict(request.query_params))
        await self.add_version(request, said["pipeline_id"], said["display_name"])
        return JSONResponse(said)

    async def upload_version(self, request: Request):
        return JSONResponse(
            await self.add_version(request, request.query_params["pipelineid"], request.query_params["name"])
        )

    async def add_version(self, request: Request, pipeline_id, name):
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        (file,) = email.message_from_bytes(head + await request.body()).get_payload()
        said = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": f"v{len(self.versions)}",
            "display_name": name,
            "documents": list(yaml.safe_load_all(file.get_payload(decode=True))),
        }
        self.versions.insert(0, said)
        return {key: value for key, value in said.items() if key != "documents"}

    async def list_versions(self, request: Request):
        found = [said for said in self.versions if said["pipeline_id"] == request.path_params["id"]]
        kept = [{key: value for key, value in said.items() if key != "documents"} for said in found]
        return JSONResponse({"pipeline_versions": kept[:1]})

    async def create_run(self, request: Request):
        said = {**await request.json(), "run_id": f"r{len(self.runs)}", "state": "PENDING"}
        self.runs.append(said)
        return JSONResponse(said)

    async def get_run(self, request: Request):
        said = self.polls.pop(0) if len(self.polls) > 1 else self.polls[0]
        if said is None:
            return JSONResponse({"error": "upstream connect error"}, status_code=503)
        state, tasks = said
        # As Argo names them: the tries, and the pods of a task, have other names.
        details = [{"display_name": name, "state": value} for name, value in tasks.items()]
        details += [{"display_name": "executor", "state": state}, {"display_name": "tfx-dag", "state": state}]
        run = {"run_id": request.path_params["id"], "state": state, "run_details": {"task_details": details}}
        return JSONResponse(run)

    async def create_recurring(self, request: Request):
        said = {**await request.json(), "recurring_run_id": f"c{len(self.recurring)}"}
        self.recurring.append(said)
        return JSONResponse(said)


@contextmanager
def serving(app):
    """Runs a server in a thread, on a free port of 127.0.0.1."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def fake():
    return _FakePipelines()


@pytest.fixture
def submit(fake, class_folders, tmp_path, monkeypatch):
    """Runs the command against the fake, with pictures of two classes."""
    # The client keeps settings in the home folder; a proxy is not for 127.0.0.1.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(submission, "_INTERVAL_S", 0.01)
    data = class_folders({"a": 3, "b": 3})
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    said = [
        f"pipeline.root={tmp_path / 'runs'}",
        "pipeline.name=animals",
        "kubeflow.image=registry.example/tfx-vision:1",
        "kubeflow.volumes=[{claim='pictures', mount_path='/volume'}]",
        "kubeflow.data_path=/volume/pictures",
        "kubeflow.work_path=/volume/work",
        "kubeflow.pipeline_root=minio://mlpipeline/animals",
        "kubeflow.service_account=pipeline-runner",
    ]

    def run(*arguments, host=None, with_token=True):
        command = ["submit", "images", "--data", str(data)]
        for override in said:
            command += ["--set", override]
        if with_token:
            command += ["--token-file", str(token)]
        with serving(fake.app) as address:
            return CliRunner().invoke(app, [*command, "--host", host or address, *arguments])

    return run


def test_a_run_is_uploaded_started_and_followed_to_its_verdict(submit, fake):
    done = dict.fromkeys(ALL, "SUCCEEDED")
    fake.polls = [("RUNNING", {"ImageExampleGen": "RUNNING"}), ("RUNNING", {"Trainer": "RUNNING"}), ("SUCCEEDED", done)]
    result = submit("--json", "--experiment", "tries")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["status"], found["run_id"], found["tasks"]["Trainer"]) == ("pushed", "r0", "SUCCEEDED")
    assert found["url"].endswith("/#/runs/details/r0")
    assert "Trainer: running" in result.stderr and "Trainer: succeeded" in result.stderr
    assert found["url"] in result.stderr
    # The client's own chatter is nobody's concern.
    assert "Creating experiment" not in result.stderr and "details:" not in result.output
    (run,) = fake.runs
    assert run["runtime_config"] == {
        "pipeline_root": "minio://mlpipeline/animals",
        "parameters": {"data_path": "/volume/pictures"},
    }
    assert run["pipeline_version_reference"] == {"pipeline_id": "p0", "pipeline_version_id": "v0"}
    assert (run["service_account"], run["experiment_id"]) == ("pipeline-runner", "e0")
    assert fake.experiments[0]["display_name"] == "tries"
    spec, platform = fake.versions[0]["documents"]
    assert spec["pipelineInfo"]["name"] == "animals" and set(platform) == {"platforms"}
    assert fake.tokens == {f"Bearer {TOKEN}"}


def test_a_second_time_another_version_is_uploaded(submit, fake):
    first, second = submit(), submit("--data-path", "/volume/others")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout.count("\n") == 1 and first.stdout.strip().endswith("/#/runs/details/r0")
    assert len(fake.pipelines) == 1 and len(fake.experiments) == 1
    assert [run["pipeline_version_reference"]["pipeline_version_id"] for run in fake.runs] == ["v0", "v1"]
    assert fake.runs[1]["runtime_config"]["parameters"] == {"data_path": "/volume/others"}


@pytest.mark.parametrize(
    ("failed", "code", "status", "words"),
    [
        (["ModelGate"], 3, "refused", "ModelGate: a gate refused the model"),
        (["PicturesGate"], 3, "refused", "PicturesGate: a gate refused the pictures"),
        (["Trainer"], 1, "failed", "Trainer failed"),
        (["Trainer", "ModelGate"], 1, "failed", "Trainer, ModelGate failed"),
        (["Verdict"], 1, "failed", "Verdict failed"),
        ([], 1, "failed", "no node says why"),
    ],
)
def test_the_exit_code_is_the_verdict(submit, fake, failed, code, status, words):
    fake.polls = [("FAILED", {"Trainer(0)": "FAILED", "Pusher": "SUCCEEDED", **dict.fromkeys(failed, "FAILED")})]
    result = submit("--json")
    assert result.exit_code == code
    found = json.loads(result.stdout)
    assert found["status"] == status and words in found["detail"]


def test_a_run_that_was_ended_by_hand_has_failed(submit, fake):
    fake.polls = [("CANCELED", {"Trainer": "CANCELED"})]
    result = submit()
    assert result.exit_code == 1 and "the run is canceled" in result.stderr


def test_a_try_that_failed_before_one_that_did_not_is_no_failure():
    tries = [SimpleNamespace(display_name="Trainer", state=state) for state in ("FAILED", "SUCCEEDED", "FAILED")]
    run = SimpleNamespace(run_details=SimpleNamespace(task_details=tries))
    assert submission.states_of(run) == {"Trainer": "SUCCEEDED"}


def test_a_server_that_is_away_for_a_moment_is_asked_again(submit, fake):
    fake.polls = [None, ("RUNNING", {}), None, ("SUCCEEDED", {})]
    assert submit().exit_code == 0


def test_a_server_that_stays_away_is_not_waited_for_for_ever(submit, fake):
    fake.polls = [None]
    result = submit()
    assert result.exit_code == 1 and "answers 503" in result.stderr


def test_a_schedule(submit, fake):
    result = submit("--cron", "0 0 3 * * *", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["status"], found["run_id"]) == ("scheduled", "c0")
    (recurring,) = fake.recurring
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert (recurring["max_concurrency"], recurring["no_catchup"], recurring["mode"]) == (1, True, "ENABLE")
    assert recurring["service_account"] == "pipeline-runner" and fake.runs == []


def test_nobody_has_to_wait(submit, fake):
    fake.polls = [("FAILED", {})]
    result = submit("--no-wait", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["status"] == "started"


def test_without_a_token_one_message_says_what_to_do(submit):
    result = submit(with_token=False)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(
        "answers 401: Unauthenticated: no token. Give a valid token (--token-file)."
    )


def test_a_page_for_people_is_no_api(submit, fake):
    page = HTMLResponse("<html>Please log in</html>")
    everything = Route("/{path:path}", lambda request: page, methods=["GET", "POST"])
    fake.app = Starlette(routes=[everything])
    result = submit()
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith("Is there a login before it? Give a token (--token-file).")


def test_nobody_there(submit):
    result = submit(host="http://127.0.0.1:9")
    assert result.exit_code == 1 and "http://127.0.0.1:9 does not answer" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "kubeflow.example"], "--host: kubeflow.example is no address"),
        (["--cron", "0 3 * * *"], "--cron: '0 3 * * *' needs six fields"),
        (["--token-file", "/nowhere/token"], "--token-file: there is no file /nowhere/token"),
        (["--cron", "0 0 3 * * *", "--set", "kubeflow.cache_examples=true"], "would never see new pictures"),
        (["--set", "kubeflow.image=''"], "kubeflow.image"),
    ],
)
def test_mistakes_are_told_before_anybody_is_asked(submit, fake, arguments, words):
    result = submit(*arguments)
    assert result.exit_code == 2 and words in result.stderr.replace("\n", " ")
    assert fake.tokens == set()


# --- tfx-vision compile -----------------------------------------------------------------------------------------


def test_compile_writes_both_documents(class_folders, tmp_path):
    data, output = class_folders({"a": 3, "b": 3}), tmp_path / "pipeline.yaml"
    command = ["compile", "images", "--data", str(data), "--output", str(output)]
    for override in (
        f"pipeline.root={tmp_path / 'runs'}",
        "kubeflow.image=registry.example/tfx-vision:1",
        "kubeflow.volumes=[{claim='pictures', mount_path='/volume'}]",
        "kubeflow.data_path=/volume/pictures",
        "kubeflow.work_path=/volume/work",
    ):
        command += ["--set", override]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{output}: pictures, 16 nodes\n"
    spec, platform = yaml.safe_load_all(output.read_text())
    assert (
        spec["schemaVersion"] == "2.1.0"
        and len(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) == 16
    )


@pytest.mark.parametrize(
    ("output", "words"), [("pipeline.json", "must end with .yaml"), ("pipeline.yaml", "kubeflow.image is missing")]
)
def test_compile_says_what_is_missing(class_folders, tmp_path, output, words):
    data = class_folders({"a": 3, "b": 3})
    result = CliRunner().invoke(app, ["compile", "images", "--data", str(data), "--output", str(tmp_path / output)])
    assert result.exit_code == 2 and words in result.stderr.replace("\n", " ")
    assert not (tmp_path / output).exists()
