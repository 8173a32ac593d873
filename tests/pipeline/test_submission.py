"""`tfx-vision submit` against a fake of the API of Kubeflow Pipelines on 127.0.0.1."""

from __future__ import annotations

import asyncio
import email
import json
import threading
import time
from types import SimpleNamespace

import kfp_server_api
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
ALL = ["ImageExampleGen", "ExampleValidator", "DatasetGate", "Trainer", "Pusher", "ModelReport", "ModelGate"]


# The parameters of the requests that the API defines, beside those of `kfp_server_api`'s models.
LISTING = {"namespace", "page_token", "page_size", "sort_by", "filter"}
UPLOAD = {"name", "display_name", "description", "namespace", "tags"}
UPLOAD_VERSION = {"name", "display_name", "description", "pipelineid", "tags"}
PAGE = 2  # entries, which is fewer than tests have


def strict(model, document):
    """Parses a document into a model of the API, whose keys, types and enumerations it must have."""
    client = kfp_server_api.ApiClient()
    parsed = client.deserialize(SimpleNamespace(data=json.dumps(document)), model)
    assert client.sanitize_for_serialization(parsed) == document
    check_enumerations(parsed)
    return parsed


def check_enumerations(parsed):
    """Checks what the models themselves leave to the server."""
    for name, kind in parsed.openapi_types.items():
        value, names = getattr(parsed, name), getattr(getattr(kfp_server_api, kind, None), "allowable_values", ())
        assert value is None or not names or value in names
        if hasattr(value, "openapi_types"):
            check_enumerations(value)


def strict_filter(text):
    """Parses a filter with one predicate; returns the text that it compares with."""
    document = json.loads(text)
    for predicate in document["predicates"]:
        # JSON of protocol buffers also has these forms, which Kubeflow's own client uses.
        if "stringValue" in predicate:
            predicate["string_value"] = predicate.pop("stringValue")
        if predicate["operation"] == 1:
            predicate["operation"] = "EQUALS"
    (predicate,) = strict("V2beta1Filter", document).predicates
    assert (predicate.key, predicate.operation) in (("display_name", "EQUALS"), ("name", "EQUALS"))
    return predicate.string_value


class _FakePipelines:
    """Experiments, pipelines, versions, runs and recurring runs, in memory; rejects what the API does not define.

    Attributes:
      polls: Responses of `GET run`, one after another: state and states of the tasks; a number is an error.
      refusal: Status of all other responses; 0 for none.
    """

    def __init__(self):
        self.experiments, self.pipelines, self.versions, self.runs, self.recurring = [], [], [], [], []
        self.polls = [("SUCCEEDED", {})]
        self.tokens = set()
        self.refusal = 0
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

    def check_token(self, request: Request):
        self.tokens.add(request.headers.get("authorization"))
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"error": "Unauthenticated: no token\nstack", "code": 16}, status_code=401)
        if self.refusal:
            return JSONResponse({"error": "no access to this namespace", "code": 7}, status_code=self.refusal)
        return None

    def page(self, request, key, entries):
        """One page of a list, as the API returns it."""
        assert set(request.query_params) <= LISTING
        start = int(request.query_params.get("page_token") or 0)
        following = {"next_page_token": str(start + PAGE)} if start + PAGE < len(entries) else {}
        return JSONResponse({key: entries[start : start + PAGE], **following} if entries else {})

    async def healthz(self, request: Request):
        return JSONResponse({"multi_user": False})

    async def list_experiments(self, request: Request):
        if error := self.check_token(request):
            return error
        name = strict_filter(request.query_params["filter"])
        return self.page(request, "experiments", [e for e in self.experiments if e["display_name"] == name])

    async def create_experiment(self, request: Request):
        document = await request.json()
        assert strict("V2beta1Experiment", document).display_name
        experiment = {**document, "experiment_id": f"e{len(self.experiments)}"}
        self.experiments.append(experiment)
        return JSONResponse(experiment)

    async def list_pipelines(self, request: Request):
        if error := self.check_token(request):
            return error
        name = strict_filter(request.query_params["filter"])
        # Names that begin alike too: a page may have none of the wanted one.
        return self.page(request, "pipelines", [p for p in self.pipelines if p["display_name"].startswith(name)])

    async def upload(self, request: Request):
        assert set(request.query_params) <= UPLOAD
        pipeline = {"pipeline_id": f"p{len(self.pipelines)}", "display_name": request.query_params["name"]}
        self.pipelines.append(pipeline)
        await self.add_version(request, pipeline["pipeline_id"], pipeline["display_name"])
        return JSONResponse(pipeline)

    async def upload_version(self, request: Request):
        assert set(request.query_params) <= UPLOAD_VERSION
        return JSONResponse(
            await self.add_version(request, request.query_params["pipelineid"], request.query_params["name"])
        )

    async def add_version(self, request: Request, pipeline_id, name):
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        (file,) = email.message_from_bytes(head + await request.body()).get_payload()
        assert file.get_param("name", header="content-disposition") == "uploadfile"
        version = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": f"v{len(self.versions)}",
            "display_name": name,
            "documents": list(yaml.load_all(file.get_payload(decode=True), yaml.CSafeLoader)),
        }
        self.versions.insert(0, version)
        return {key: value for key, value in version.items() if key != "documents"}

    async def list_versions(self, request: Request):
        versions = [version for version in self.versions if version["pipeline_id"] == request.path_params["id"]]
        entries = [{key: value for key, value in version.items() if key != "documents"} for version in versions]
        return self.page(request, "pipeline_versions", entries)

    async def create_run(self, request: Request):
        document = await request.json()
        self.check_references(strict("V2beta1Run", document))
        run = {**document, "run_id": f"r{len(self.runs)}", "state": "PENDING"}
        self.runs.append(run)
        return JSONResponse(run)

    async def get_run(self, request: Request):
        poll = self.polls.pop(0) if len(self.polls) > 1 else self.polls[0]
        if isinstance(poll, int):
            return JSONResponse({"error": "upstream connect error"}, status_code=poll)
        state, tasks = poll
        # Names of Argo: attempts, and the pods of a task, have other names.
        details = [{"display_name": name, "state": value} for name, value in tasks.items()]
        details += [{"display_name": "executor", "state": state}, {"display_name": "tfx-dag", "state": state}]
        run = {"run_id": request.path_params["id"], "state": state, "run_details": {"task_details": details}}
        return JSONResponse(run)

    def check_references(self, run):
        """A run names an experiment, a pipeline and a version that exist."""
        assert run.experiment_id in [entry["experiment_id"] for entry in self.experiments]
        reference = run.pipeline_version_reference
        assert (reference.pipeline_id, reference.pipeline_version_id) in [
            (version["pipeline_id"], version["pipeline_version_id"]) for version in self.versions
        ]

    async def create_recurring(self, request: Request):
        document = await request.json()
        # JSON of protocol buffers writes 64-bit integers as text, and reads both.
        parsed = strict("V2beta1RecurringRun", document | {"max_concurrency": str(document["max_concurrency"])})
        self.check_references(parsed)
        assert parsed.mode and parsed.trigger.cron_schedule.cron and parsed.max_concurrency
        recurring = {**document, "recurring_run_id": f"c{len(self.recurring)}"}
        self.recurring.append(recurring)
        return JSONResponse(recurring)


@pytest.fixture(scope="module")
def server():
    """One server for all tests, on a free port of 127.0.0.1: its address, and the list with the app of a test."""
    apps = []

    async def current(scope, receive, send):
        await apps[-1](scope, receive, send)

    running = uvicorn.Server(
        uvicorn.Config(current, host="127.0.0.1", port=0, log_level="error", ws="none", lifespan="off")
    )
    thread = threading.Thread(target=lambda: asyncio.run(running.serve()))
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}", apps
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture
def fake():
    return _FakePipelines()


@pytest.fixture
def submit(fake, server, class_folders, tmp_path, monkeypatch):
    """Runs the command against the fake, with images of two classes."""
    # The client keeps settings in the home folder.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(submission, "_INTERVAL_S", 0.01)
    data = class_folders({"a": 3, "b": 3})
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    overrides = [
        f"pipeline.root={tmp_path / 'runs'}",
        "pipeline.name=animals",
        "kubeflow.image=registry.example/tfx-vision:1",
        "kubeflow.volumes=[{claim='images', mount_path='/volume'}]",
        "kubeflow.data_path=/volume/images",
        "kubeflow.work_path=/volume/work",
        "kubeflow.pipeline_root=minio://mlpipeline/animals",
        "kubeflow.service_account=pipeline-runner",
    ]

    def run(*arguments, host=None, with_token=True, data=data):
        command = ["submit", "images", "--data", str(data)]
        for override in overrides:
            command += ["--set", override]
        if with_token:
            command += ["--token-file", str(token)]
        address, apps = server
        apps.append(fake.app)
        return CliRunner().invoke(app, [*command, "--host", host or address, *arguments])

    return run


def test_a_run_is_uploaded_started_and_followed_to_the_end(submit, fake):
    done = dict.fromkeys(ALL, "SUCCEEDED")
    fake.polls = [("RUNNING", {"ImageExampleGen": "RUNNING"}), ("RUNNING", {"Trainer": "RUNNING"}), ("SUCCEEDED", done)]
    result = submit("--json", "--experiment", "trials")
    assert result.exit_code == 0, result.output
    output = json.loads(result.stdout)
    assert (output["status"], output["run_id"], output["tasks"]["Trainer"]) == ("pushed", "r0", "SUCCEEDED")
    assert output["url"].endswith("/#/runs/details/r0")
    assert "Trainer: running" in result.stderr and "Trainer: succeeded" in result.stderr
    assert output["url"] in result.stderr
    # Messages of the client are suppressed.
    assert "Creating experiment" not in result.stderr and "details:" not in result.output
    (run,) = fake.runs
    assert run["runtime_config"] == {
        "pipeline_root": "minio://mlpipeline/animals",
        "parameters": {"data_path": "/volume/images"},
    }
    assert run["pipeline_version_reference"] == {"pipeline_id": "p0", "pipeline_version_id": "v0"}
    assert (run["service_account"], run["experiment_id"]) == ("pipeline-runner", "e0")
    assert fake.experiments[0]["display_name"] == "trials"
    spec, platform = fake.versions[0]["documents"]
    assert spec["pipelineInfo"]["name"] == "animals" and set(platform) == {"platforms"}
    assert fake.tokens == {f"Bearer {TOKEN}"}


def test_a_second_submission_uploads_another_version(submit, fake):
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
        (["DatasetGate"], 3, "refused", "DatasetGate: a gate refused the images"),
        (["Trainer"], 1, "failed", "Trainer failed"),
        (["Trainer", "ModelGate"], 1, "failed", "Trainer, ModelGate failed"),
        (["RunVerdict"], 1, "failed", "RunVerdict failed"),
        ([], 1, "failed", "no node gives a reason"),
    ],
)
def test_refused_and_failed_runs_have_different_exit_codes(submit, fake, failed, code, status, words):
    fake.polls = [("FAILED", {"Trainer(0)": "FAILED", "Pusher": "SUCCEEDED", **dict.fromkeys(failed, "FAILED")})]
    result = submit("--json")
    assert result.exit_code == code
    output = json.loads(result.stdout)
    assert output["status"] == status and words in output["detail"]


def test_a_canceled_run_has_failed(submit, fake):
    fake.polls = [("CANCELED", {"Trainer": "CANCELED"})]
    result = submit()
    assert result.exit_code == 1 and "the run is canceled" in result.stderr


def test_a_failed_attempt_before_a_successful_one_is_not_a_failure():
    attempts = [SimpleNamespace(display_name="Trainer", state=state) for state in ("FAILED", "SUCCEEDED", "FAILED")]
    run = SimpleNamespace(run_details=SimpleNamespace(task_details=attempts))
    assert submission.task_states(run) == {"Trainer": "SUCCEEDED"}


def test_a_server_that_is_briefly_unavailable_is_retried(submit, fake):
    fake.polls = [503, ("RUNNING", {}), 503, ("SUCCEEDED", {})]
    assert submit().exit_code == 0


def test_retries_end_if_the_server_stays_unavailable(submit, fake):
    fake.polls = [503]
    result = submit()
    assert result.exit_code == 1 and "responds 503" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("/#/runs/details/r0")


def test_a_run_that_is_deleted_while_it_is_followed_has_failed(submit, fake):
    fake.polls = [("RUNNING", {"Trainer": "RUNNING"}), 404]
    result = submit("--json")
    assert result.exit_code == 1
    output = json.loads(result.stdout)
    assert (output["status"], output["detail"]) == ("failed", "the run was deleted before its end.")


@pytest.mark.parametrize(("status", "advice"), [(401, "--token-file"), (403, "--namespace, --token-file")])
def test_a_token_that_expires_while_a_run_is_followed(submit, fake, status, advice):
    fake.polls = [("RUNNING", {}), status, ("SUCCEEDED", {})]
    result = submit()
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert f"responds {status}" in line and advice in line and "The run continues: http" in line
    assert len(fake.polls) == 1  # it was not asked again


def test_no_permission_names_the_options_and_starts_nothing(submit, fake):
    fake.refusal = 403
    result = submit()
    assert result.exit_code == 1 and fake.runs == fake.pipelines == []
    assert result.stderr.splitlines()[-1].endswith(
        "responds 403: no access to this namespace. The token has no permission in this namespace (--namespace, "
        "--token-file)."
    )
    fake.refusal = 0
    assert submit("--namespace", "team").exit_code == 0


def test_a_pipeline_on_a_later_page_gets_another_version(submit, fake):
    names = ["animals-1", "animals-2", "animals-3", "animals"]
    fake.pipelines = [{"pipeline_id": f"p{number}", "display_name": name} for number, name in enumerate(names)]
    assert submit().exit_code == 0
    assert len(fake.pipelines) == 4
    assert fake.runs[0]["pipeline_version_reference"]["pipeline_id"] == "p3"


def test_the_fake_rejects_what_the_api_does_not_define():
    for document in ({"display_names": "x"}, {"state": "WALKING"}, {"runtime_config": {"params": {}}}):
        with pytest.raises((AssertionError, ValueError)):
            strict("V2beta1Run", document)


def test_a_schedule(submit, fake):
    result = submit("--cron", "0 0 3 * * *", "--json")
    assert result.exit_code == 0
    output = json.loads(result.stdout)
    assert (output["status"], output["run_id"]) == ("scheduled", "c0")
    (recurring,) = fake.recurring
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    # Missed runs are not made up for: all of them would read the newest span.
    assert (recurring["max_concurrency"], recurring["no_catchup"], recurring["mode"]) == (1, True, "ENABLE")
    assert recurring["service_account"] == "pipeline-runner" and fake.runs == []


def test_submit_without_waiting(submit, fake):
    fake.polls = [("FAILED", {})]
    result = submit("--no-wait", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["status"] == "started"


def test_without_a_token_the_message_names_the_option(submit):
    result = submit(with_token=False)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith(
        "responds 401: Unauthenticated: no token. Give a valid token (--token-file)."
    )


def test_a_login_page_is_not_the_api(submit, fake):
    page = HTMLResponse("<html>Please log in</html>")
    everything = Route("/{path:path}", lambda request: page, methods=["GET", "POST"])
    fake.app = Starlette(routes=[everything])
    result = submit()
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith("If it has a login page, give a token (--token-file).")


def test_an_unreachable_server(submit):
    result = submit(host="http://127.0.0.1:9")
    assert result.exit_code == 1 and "http://127.0.0.1:9 does not respond" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "kubeflow.example"], "--host: kubeflow.example is not an address"),
        (["--cron", "0 3 * * *"], "--cron: '0 3 * * *' must have six fields"),
        (["--token-file", "/nowhere/token"], "--token-file: file /nowhere/token does not exist"),
        (["--cron", "0 0 3 * * *", "--set", "kubeflow.cache_examples=true"], "would never read new images"),
        (["--set", "kubeflow.image=''"], "kubeflow.image"),
    ],
)
def test_errors_are_reported_before_any_request(submit, fake, arguments, words):
    result = submit(*arguments)
    assert result.exit_code == 2 and words in result.stderr.replace("\n", " ")
    assert fake.tokens == set()


def test_a_token_that_is_not_text_is_reported(submit, tmp_path):
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    result = submit("--token-file", str(tmp_path / "token"))
    assert result.exit_code == 2 and "not a text file" in result.stderr


# --- tfx-vision compile -----------------------------------------------------------------------------------------


def test_compile_writes_both_documents(class_folders, tmp_path):
    data, output = class_folders({"a": 3, "b": 3}, "birds"), tmp_path / "pipeline.yaml"
    command = ["compile", "images", "--data", str(data), "--output", str(output)]
    for override in (
        f"pipeline.root={tmp_path / 'runs'}",
        "kubeflow.image=registry.example/tfx-vision:1",
        "kubeflow.volumes=[{claim='images', mount_path='/volume'}]",
        "kubeflow.data_path=/volume/images",
        "kubeflow.work_path=/volume/work",
    ):
        command += ["--set", override]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{output}: birds, 17 nodes\n"
    spec, platform = yaml.safe_load_all(output.read_text())
    assert (
        spec["schemaVersion"] == "2.1.0"
        and len(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) == 17
    )


def test_another_dataset_stops_before_any_request(submit, fake, class_folders):
    assert submit().exit_code == 0
    tools, num_runs = class_folders({"nail": 3, "screw": 3}, "tools"), len(fake.runs)
    result = submit(data=tools)
    assert result.exit_code == 2 and result.stdout == ""
    assert "Pipeline `animals`" in result.stderr and "--set pipeline.name=tools" in result.stderr
    assert len(fake.runs) == num_runs
    assert submit("--adopt", data=tools).exit_code == 0
    assert submit(data=tools).exit_code == 0


@pytest.mark.parametrize(
    ("output", "words"), [("pipeline.json", "must end with .yaml"), ("pipeline.yaml", "kubeflow.image is missing")]
)
def test_compile_reports_missing_settings(class_folders, tmp_path, output, words):
    data = class_folders({"a": 3, "b": 3})
    result = CliRunner().invoke(app, ["compile", "images", "--data", str(data), "--output", str(tmp_path / output)])
    assert result.exit_code == 2 and words in result.stderr.replace("\n", " ")
    assert not (tmp_path / output).exists()
