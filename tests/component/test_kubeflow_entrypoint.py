"""The entrypoint on every node of small runs, between a driver and a launcher that behave as KFP's; and with faults.

Most containers are this process: faults can be put in, and TFX is loaded once.
"""

import functools
import json

import pytest
from google.protobuf import json_format

from components.evaluator.artifact import EvaluationResult
from components.image_example_gen import spans
from pipeline.config import loading
from pipeline.execution import dataset, local_run
from pipeline.kubeflow import entrypoint, workflow_size
from pipeline.nodes import DATASET_GATE, MODEL_GATE, RUN_VERDICT
from trainer_module import locations


@pytest.fixture(scope="module")
def volume(kubeflow_harness, tmp_path_factory):
    """A folder that pods mount, with one span of images."""
    folder = tmp_path_factory.mktemp("volume")
    kubeflow_harness.write_images(folder / "data" / "day-1")
    return folder


@pytest.fixture(scope="module")
def harness(volume, tmp_path_factory, kubeflow_harness):
    """Compiles, and makes an installation that keeps its store."""
    folder = tmp_path_factory.mktemp("cluster")
    return functools.partial(kubeflow_harness.install, folder, volume, f"{volume}/data/day-{{SPAN}}")


# Nodes that start quickly, and one that computes.
NEW_PROCESSES = ("PreviousSpan", "Resolver", DATASET_GATE, MODEL_GATE, RUN_VERDICT, "Trainer")


@pytest.fixture(scope="module")
def pushed(harness, request, kubeflow_harness):
    """A first run, some of whose containers are new processes: installation and run."""
    made = harness()
    fresh = made.executor_names() if request.config.getoption("--fresh-pods") else NEW_PROCESSES
    made.start = kubeflow_harness.new_processes(fresh)
    run = made.run(at_once=1)
    made.start = kubeflow_harness.this_process
    print(run.table())
    return made, run


def again(pushed, node):
    """Runs one node of the first run once more."""
    installation, run = pushed
    task = installation.tasks[node]
    given = {"data_path": installation.spec.root.input_definitions.parameters["data_path"].default_value.string_value}
    return installation.launch(node, task, installation.drive(node, task, run, given))


def stored(installation, task, key, name):
    return json.loads((installation.stored(task.outputs[key]["uri"]) / name).read_text())


def test_a_run_pushes_its_model_and_prints_the_verdict(pushed, volume):
    _, run = pushed
    assert {task.exit_code for task in run.tasks.values()} == {0}, run.table()
    (version,) = (volume / "work/days/serving/days").iterdir()
    assert (version / "saved_model.pb").is_file()
    assert run.tasks["RunVerdict"].last_line == f"verdict: pushed version {version.name}: {version}"


def test_the_metrics_equal_those_of_a_local_run(pushed, volume, kubeflow_harness, tmp_path):
    installation, run = pushed
    overrides = [f"pipeline.root={tmp_path}", *kubeflow_harness.SMALL_RUN]
    loaded = loading.load("images", data=f"{volume}/data/day-{{SPAN}}", overrides=overrides)
    local = local_run.execute(loaded, dataset.prepare(loaded), to_node="Evaluator")  # what follows changes no metric
    assert (local.error, local.refusal) == (None, None)
    uri = run.tasks["Evaluator"].outputs["evaluation"]["uri"]
    measured = EvaluationResult.read(str(installation.stored(uri)))
    assert measured.overall.metrics == pytest.approx(local.result.slices[0].metrics, rel=1e-6)
    assert measured.overall.confusion_matrix == local.result.slices[0].confusion_matrix


def test_types_and_properties_survive_ml_metadata(pushed):
    _, run = pushed
    examples = run.tasks["ImageExampleGen"].outputs["examples"]
    assert examples["metadata"]["span"] == 1
    assert json.loads(examples["metadata"]["split_names"]) == ["train", "validation", "test"]
    assert all(
        artifact["uri"].startswith("minio://") for task in run.tasks.values() for artifact in task.outputs.values()
    )


def test_a_refused_model_was_compared_with_the_served_one(pushed, harness, volume):
    """Also, the artifacts are on the volume, and Kubeflow's store has only the logs."""
    installation = harness(
        f"pipeline.artifacts={volume}/artifacts",
        "training.seed=2",
        "evaluation.change_thresholds={cross_entropy=0.0}",
        "evaluation.thresholds={cross_entropy=0.0}",  # refused whatever six images say about the comparison
    )
    before = set(installation.store.rglob("*"))
    run = installation.run(at_once=1)
    uploaded = {path.name for path in set(installation.store.rglob("*")) - before if path.is_file()}
    assert uploaded == {"executor-logs-0"}
    (version,) = (volume / "work/days/serving/days").iterdir()
    assert run.tasks["Resolver"].outputs["model"]["metadata"]["version"] == version.name
    assert stored(installation, run.tasks["Evaluator"], "evaluation", "gates.json")["has_baseline"]
    # The report is there all the same.
    assert run.tasks["ModelReport"].exit_code == 0
    assert run.tasks["ModelGate"].exit_code == 3
    assert run.tasks["ModelGate"].last_line.startswith("refused: ModelGate: Evaluator refused the model")
    assert run.tasks["RunVerdict"].last_line.startswith("verdict: refused by Evaluator")


def test_drift_ends_the_run_at_its_gate(pushed, harness, volume, kubeflow_harness, monkeypatch):
    kubeflow_harness.write_images(volume / "data" / "day-2", brightness=0.3)
    try:
        installation = harness()
        run = installation.run(at_once=1)
    finally:
        (volume / "data" / "day-2").rename(volume / "later")
    assert run.tasks["ImageExampleGen"].outputs["examples"]["metadata"]["span"] == 2
    assert stored(installation, run.tasks["ExampleValidator"], "anomalies", "drift.json")["previous_span"] == 1
    assert {name for name, task in run.tasks.items() if task.exit_code} == {"DatasetGate"}
    assert run.tasks["DatasetGate"].exit_code == 3
    assert "drifted from those of span 1" in run.tasks["DatasetGate"].last_line
    assert "Transform" not in run.tasks
    assert run.tasks["RunVerdict"].last_line.startswith("verdict: refused by ExampleValidator")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_every_store_of_kubeflow(pushed, harness, scheme):
    installation = harness(scheme=scheme)
    node, task = "ImageExampleGen", installation.tasks["ImageExampleGen"]
    _, run = pushed
    given = {"data_path": installation.spec.root.input_definitions.parameters["data_path"].default_value.string_value}
    done = installation.launch(node, task, installation.drive(node, task, run, given))
    assert done.exit_code == 0
    assert done.outputs["examples"]["uri"].startswith(f"{scheme}://")


# --- Faults, one in every place ---------------------------------------------------------------------------------


def test_inputs_without_types_are_an_error(pushed, monkeypatch):
    monkeypatch.setattr(entrypoint, "restore_types", lambda invocation, spec: None)
    task = again(pushed, "SchemaGen")
    assert task.exit_code == 1
    assert task.last_line.startswith("error: SchemaGen: ")


def test_uris_of_the_store_must_be_mapped(pushed, monkeypatch):
    monkeypatch.setattr(entrypoint, "map_uris", lambda invocation, root, artifacts: {})
    assert again(pushed, "SchemaGen").exit_code == 1


def test_outputs_with_folders_of_the_pod_are_not_uploaded(pushed, monkeypatch, kubeflow_harness):
    monkeypatch.setattr(entrypoint, "restore_uris", lambda invocation, uris, output_file: None)
    with pytest.raises(kubeflow_harness.HarnessError, match="unsupported storage scheme: /"):
        again(pushed, "SchemaGen")


def test_absent_inputs_must_be_removed(pushed, monkeypatch):
    monkeypatch.setattr(entrypoint, "remove_absent", lambda invocation: None)
    assert again(pushed, "ExampleValidator").exit_code == 1


def test_an_unresolved_span_is_an_error(pushed, monkeypatch):
    def unresolved(pattern, which):
        return [spans.Span(number=1, version=0, path=pattern.removeprefix(spans.root_of(pattern)).lstrip("/"))]

    monkeypatch.setattr(spans, "resolve", unresolved)
    task = again(pushed, "ImageExampleGen")
    assert task.exit_code == 1
    assert task.last_line.startswith("error: ImageExampleGen: ")


def test_classes_that_changed_since_compilation_are_reported(pushed, volume):
    installation, run = pushed
    task = installation.tasks["ImageExampleGen"]
    (volume / "other").mkdir()
    for name in ("blue", "yellow"):
        (volume / "data/day-1" / ("blue" if name == "blue" else "red")).rename(volume / "other" / name)
    try:
        invocation = installation.drive("ImageExampleGen", task, run, {"data_path": str(volume / "other")})
        done = installation.launch("ImageExampleGen", task, invocation)
    finally:
        for name in ("blue", "yellow"):
            (volume / "other" / name).rename(volume / "data/day-1" / ("blue" if name == "blue" else "red"))
    assert done.exit_code == 1
    assert "has 2 classes (`blue`, `yellow`), and not the 3 that the pipeline was compiled for" in done.last_line


@pytest.mark.parametrize(("debug", "lines"), [("", 1), ("1", 2)])
def test_a_failure_is_one_line_without_debug(pushed, monkeypatch, debug, lines):
    monkeypatch.setenv(entrypoint.DEBUG, debug)
    monkeypatch.setattr(entrypoint, "restore_types", lambda invocation, spec: {}["a"])
    task = again(pushed, "DatasetGate")
    text = (pushed[0].folder / "DatasetGate.log").read_text()
    assert task.last_line == "error: DatasetGate: missing key 'a'"
    assert ("Traceback" in text) == (lines > 1)
    assert len(text.splitlines()) == 1 or debug


def test_an_unsupported_store_is_reported():
    with pytest.raises(entrypoint.UnknownStoreError, match=r"hdfs://a/b is not a URI of minio://, s3://, gs"):
        entrypoint.local_path("hdfs://a/b", entrypoint.Path("/"))


# --- The cache, retries and sizes of Kubeflow -------------------------------------------------------------------


def execute(pushed, node):
    """Runs one node of the first run once more, with its cache and retries."""
    installation, run = pushed
    task = installation.tasks[node]
    return installation.execute(node, task, installation.drive(node, task, run, {}), run)


def failing(times):
    """The entrypoint fails so many times, and then works."""
    restore, failures = entrypoint.restore_types, iter(range(times))

    def fail(invocation, spec):
        if next(failures, None) is not None:
            raise OSError("the store does not respond")
        restore(invocation, spec)

    return fail


def test_a_node_with_the_same_inputs_is_taken_from_the_cache(pushed):
    _, run = pushed
    for node in ("StatisticsGen", "Trainer"):
        again = execute(pushed, node)
        assert again.num_attempts == 0
        assert again.outputs == run.tasks[node].outputs
    # Its result depends on earlier runs.
    assert execute(pushed, "PreviousSpan").num_attempts == 1


def test_a_failed_attempt_is_retried_with_a_log_of_its_own(pushed, monkeypatch):
    monkeypatch.setattr(entrypoint, "restore_types", failing(1))
    task = execute(pushed, "PreviousSpan")
    assert (task.exit_code, task.num_attempts) == (0, 2)
    assert task.outputs["executor-logs"]["uri"].endswith("/executor-logs-1")


def test_after_the_last_attempt_only_the_log_is_stored(pushed, monkeypatch):
    monkeypatch.setattr(entrypoint, "restore_types", failing(9))
    task = execute(pushed, "PreviousSpan")
    assert (task.exit_code, task.num_attempts, set(task.outputs)) == (1, 3, {"executor-logs"})
    assert "the store does not respond" in pushed[0].stored(task.outputs["executor-logs"]["uri"]).read_text()


def test_properties_survive_as_numbers_and_texts(pushed):
    """Lists would come back wrapped, and integers above 2**53 rounded: ids of TFX are, and nobody reads them."""
    _, run = pushed
    properties = [
        (key, value)
        for task in run.tasks.values()
        for output in task.outputs.values()
        for key, value in output["metadata"].items()
    ]
    assert ("span", 1.0) in properties and ("pushed", 1.0) in properties
    wrapped = {key for key, value in properties if isinstance(value, dict)}
    rounded = {key for key, value in properties if isinstance(value, float) and not abs(value) < 2**53}
    assert wrapped <= {"blessed"}  # of ExampleValidator: TFX's, by split
    # Read by local runs only, from ML Metadata.
    assert rounded <= {"current_model_id", "baseline_model_id", "model_id", "schema_id", "statistics_id"}


def test_the_estimated_size_covers_what_argo_stored(pushed):
    installation, run = pushed
    spec = json_format.MessageToDict(installation.spec)
    assert installation.size(run) < workflow_size.of_run(spec, installation.platform) < 2 * installation.size(run)


# --- Artifacts in a folder that pods share ----------------------------------------------------------------------


def call(node, executor, tmp_path, artifacts, inputs=None, outputs=(), **parameters):
    """Runs the entrypoint with a shared folder; returns the written output file."""
    output_file = tmp_path / "pod/minio/b/task/output_metadata.json"

    def entries(uris):
        return {key: {"artifacts": [{"uri": uri, "metadata": {"span": 1.0}}]} for key, uri in uris.items()}

    invocation = {
        "inputs": {"artifacts": entries(inputs or {}), "parameterValues": parameters},
        "outputs": {
            "artifacts": entries({key: f"minio://b/task/{key}" for key in outputs}),
            "outputFile": str(output_file),
        },
    }
    spec = {"artifacts": {key: {"artifactType": {"schemaTitle": "x"}} for key in inputs or {}}}
    arguments = [f"--node_id={node}", f"--artifacts={artifacts}", "--executor_class_path", executor]
    arguments += ["--json_serialized_invocation_args", json.dumps(invocation)]
    assert entrypoint.main([*arguments, "--json_serialized_inputs_spec_args", json.dumps(spec)]) == 0
    return json.loads(output_file.read_text())["artifacts"]


@pytest.mark.parametrize("scheme", ["", "ram:/"])
def test_small_nodes_read_and_write_a_shared_folder(tmp_path, scheme):
    """In an object store too: these nodes copy its files from and to the volume."""
    artifacts = f"{scheme}{tmp_path}/artifacts"
    for name in ("statistics", "schema"):
        locations.file_system(artifacts).makedirs(f"{artifacts}/b/{name}/Split-train")
        locations.write(f"{artifacts}/b/{name}/Split-train/stats", name.encode())
    inputs = {"statistics": "minio://b/statistics", "schema": "minio://b/schema", "anomalies": "minio://b/anomalies"}
    folders = {"spans_dir": str(tmp_path / "spans"), "verdicts_dir": str(tmp_path / "verdicts"), "run_id": "1"}
    call("DatasetGate", "components.cluster.executor.DatasetGate", tmp_path, artifacts, inputs, **folders)
    (tmp_path / "spans/1").rename(tmp_path / "spans/0")
    written = call(
        *("PreviousSpan", "components.cluster.executor.PreviousSpan", tmp_path, artifacts),
        *({"current": "minio://b/statistics"}, ("statistics", "schema")),
        **folders,
    )
    assert written["schema"]["artifacts"][0]["uri"] == "minio://b/task/schema"
    assert locations.read(f"{artifacts}/b/task/schema/Split-train/stats") == b"schema"


def test_a_retry_does_not_see_files_of_the_failed_attempt(tmp_path):
    left = tmp_path / "shared/b/task/examples/Split-train/data-00000-of-00002"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    outputs = {"artifacts": {"examples": {"artifacts": [{"uri": "minio://b/task/examples"}]}}, "outputFile": "/tmp/x"}
    invocation = {"outputs": outputs}
    entrypoint.map_uris(invocation, tmp_path, str(tmp_path / "shared"))
    assert list((tmp_path / "shared/b/task/examples").iterdir()) == []
    # Workers of an engine write TFX's temporary files, which are beside this one.
    assert invocation["outputs"]["outputFile"] == str(tmp_path / "shared/b/task/output_metadata.json")
