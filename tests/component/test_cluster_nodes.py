"""Nodes that run on Kubeflow Pipelines only: inputs, errors and outputs."""

import json
import subprocess
import sys

import pytest
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components.cluster import component, executor
from components.cluster.executor import ABSENT, REFUSAL, Artifact

STATISTICS = Channel(type=standard_artifacts.ExampleStatistics)


@pytest.fixture
def artifact(tmp_path):
    """Makes an artifact with files."""

    def make(name, files=(), **properties):
        path = tmp_path / "artifacts" / name
        path.mkdir(parents=True)
        for file, text in dict(files).items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(text)
        return Artifact(path, properties)

    return make


@pytest.fixture
def parameters(tmp_path):
    return {
        "spans_dir": str(tmp_path / "spans"),
        "verdicts_dir": str(tmp_path / "verdicts"),
        "model_base_path": str(tmp_path / "serving"),
        "run_id": "{{$.pipeline_job_uuid}}",
        "final_status": json.dumps({"state": "FAILED"}),
    }


def test_they_import_neither_tfx_nor_tensorflow():
    code = (
        "import sys; import pipeline.kubeflow.entrypoint, components.cluster.executor; "
        "print([name for name in ('tfx', 'tensorflow', 'apache_beam', 'kfp') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


_IMPORTS = """
import importlib, sys
from pipeline.kubeflow import light_imports
light_imports.install()
def show(*modules):
    for module in modules:
        importlib.import_module(module)
    parts = ("kfp.client", "tensorflow_model_analysis.api", "tfx.components.bulk_inferrer")
    watched = (*parts, *light_imports.UNUSED)
    print([name for name in watched if name in sys.modules])
names = ("image_example_gen", "statistics_gen", "schema_gen", "example_validator", "transform", "trainer", "pusher")
names += ("serving_validator", "grad_cam", "model_report")
entrypoint = "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"
show(entrypoint, *(f"components.{name}.executor" for name in names))
show("components.evaluator.executor")
from tfx.components import Trainer
"""


def test_pods_import_only_what_their_node_uses():
    """In a process of its own, which has to import TensorFlow and TFX."""
    process = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=False)
    assert process.stdout == "[]\n['tensorflow_model_analysis.api']\n", process.stderr[-2000:]


# --- Spans ------------------------------------------------------------------------------------------------------


def store_span(artifact, parameters, span, name):
    statistics = artifact(f"statistics-{name}", {"Split-train/stats": name}, span=float(span), split_names='["train"]')
    inputs = {
        "anomalies": artifact(f"anomalies-{name}"),
        "statistics": statistics,
        "schema": artifact(f"schema-{name}", {"schema.pbtxt": name}),
    }
    executor.DatasetGate().run(inputs, {}, parameters)


def find_span(artifact, parameters, span):
    outputs = {"statistics": artifact(f"previous-{span}"), "schema": artifact(f"previous-schema-{span}")}
    executor.PreviousSpan().run({"current": artifact(f"current-{span}", span=float(span))}, outputs, parameters)
    return outputs


def test_the_newest_blessed_earlier_span_is_copied(artifact, parameters):
    for span, name in ((9, "nine"), (10, "ten"), (12, "twelve")):
        store_span(artifact, parameters, span, name)
    previous = find_span(artifact, parameters, 12)
    assert (previous["statistics"].path / "Split-train/stats").read_text() == "ten"
    assert (previous["schema"].path / "schema.pbtxt").read_text() == "ten"
    assert previous["statistics"].properties == {"span": 10.0, "split_names": '["train"]'}


def test_a_span_that_runs_again_replaces_itself(artifact, parameters):
    store_span(artifact, parameters, 1, "first")
    store_span(artifact, parameters, 1, "again")
    previous = find_span(artifact, parameters, 2)
    assert (previous["schema"].path / "schema.pbtxt").read_text() == "again"


def test_without_an_earlier_span_the_outputs_are_marked_absent_and_not_empty(artifact, parameters):
    store_span(artifact, parameters, 5, "five")
    for output in find_span(artifact, parameters, 5).values():
        assert output.properties == {ABSENT: 1}
        assert list(output.path.iterdir())  # an object store has no empty folders


# --- The baseline model -----------------------------------------------------------------------------------------

EXPORT = {"saved_model.pb": "graph", "variables/data": "1", "assets.extra/labels.json": '["a", "b"]'}


def push(parameters, version, files):
    for file, text in files.items():
        path = f"{parameters['model_base_path']}/{version}/{file}"
        subprocess.run(["install", "-D", "/dev/stdin", path], input=text.encode(), check=True)


def find_model(artifact, parameters, files=None):
    candidate = artifact("candidate", {f"Format-Serving/{name}": text for name, text in (files or EXPORT).items()})
    output = artifact("baseline")
    executor.ServedModel().run({"candidate": candidate}, {"model": output}, parameters)
    return output


@pytest.mark.parametrize("labels", ['["a", "b"]', '["a", "c"]'])
def test_the_newest_other_version_is_copied(artifact, parameters, labels):
    push(parameters, 9, EXPORT | {"variables/data": "nine"})
    push(parameters, 10, EXPORT | {"variables/data": "ten", "assets.extra/labels.json": labels})
    push(parameters, 12, EXPORT)  # the candidate itself: this run was retried
    push(parameters, 13, {"variables/data": "half a push"})
    push(parameters, "13.partial", EXPORT | {"variables/data": "not a version"})
    baseline = find_model(artifact, parameters)
    assert (baseline.path / "Format-Serving/variables/data").read_text() == "ten"
    assert baseline.properties == {"version": "10"}


@pytest.mark.parametrize("version", [None, 12])
def test_without_another_model_the_output_is_marked_absent(artifact, parameters, version):
    if version:
        push(parameters, version, EXPORT)
    assert find_model(artifact, parameters).properties == {ABSENT: 1}


# --- Gates and the verdict --------------------------------------------------------------------------------------


def run_model_gate(artifact, parameters, *, pushed, blessed=1.0, servable=1.0, faithful=1.0):
    inputs = {
        "pushed_model": artifact("pushed", **pushed),
        "blessing": artifact("blessing", blessed=blessed),
        "infra_blessing": artifact("infra", blessed=servable),
        "explanations": artifact("explanations", blessed=faithful),
    }
    executor.ModelGate().run(inputs, {}, parameters)


def printed_verdict(parameters, capsys):
    capsys.readouterr()
    executor.RunVerdict().run({}, {}, parameters)
    return capsys.readouterr().out


def test_a_refused_dataset(artifact, parameters, capsys):
    inputs = {key: artifact(key) for key in ("statistics", "schema")}
    inputs["anomalies"] = artifact("anomalies", **{REFUSAL: "There are no cats."})
    with pytest.raises(executor.RefusedError, match=r"ExampleValidator refuses the dataset\. There are no cats\."):
        executor.DatasetGate().run(inputs, {}, parameters)
    assert printed_verdict(parameters, capsys) == "verdict: refused by ExampleValidator: There are no cats.\n"
    assert find_span(artifact, parameters, 7)["schema"].properties == {ABSENT: 1}


def test_a_pushed_model(artifact, parameters, capsys):
    run_model_gate(
        artifact, parameters, pushed={"pushed": 1.0, "pushed_version": "7", "pushed_destination": "/served/7"}
    )
    assert printed_verdict(parameters, capsys) == "verdict: pushed version 7: /served/7\n"


@pytest.mark.parametrize(
    ("verdicts", "gates"),
    [
        ({"blessed": 0.0}, "Evaluator"),
        ({"servable": 0.0}, "ServingValidator"),
        ({"faithful": 0.0}, "GradCam"),
        ({"blessed": 0.0, "servable": 0.0}, "Evaluator and ServingValidator"),
    ],
)
def test_a_refused_model(artifact, parameters, capsys, verdicts, gates):
    with pytest.raises(executor.RefusedError, match=f"^{gates} refused the model"):
        run_model_gate(artifact, parameters, pushed={"pushed": 0.0}, **verdicts)
    assert printed_verdict(parameters, capsys).startswith(f"verdict: refused by {gates}: ")


def test_a_blessed_model_that_was_not_pushed_is_an_error(artifact, parameters):
    with pytest.raises(RuntimeError, match="Pusher has not pushed it"):
        run_model_gate(artifact, parameters, pushed={"pushed": 0.0})


def test_a_run_without_a_verdict_of_a_gate_has_failed(parameters, capsys):
    assert printed_verdict(parameters, capsys) == "verdict: failed before the last gate (state FAILED)\n"


def test_the_verdict_of_another_run_is_ignored(artifact, parameters, capsys):
    with pytest.raises(executor.RefusedError):
        run_model_gate(artifact, parameters, pushed={"pushed": 0.0}, blessed=0.0)
    assert printed_verdict(parameters | {"run_id": "another"}, capsys).startswith("verdict: failed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spans_dir": "spans"}, "Missing argument 'current'"),
        ({"spans_dir": "spans", "current": STATISTICS, "span": 1}, "unknown arguments of PreviousSpan: span"),
        ({"spans_dir": 1, "current": STATISTICS}, "spans_dir"),
        ({"spans_dir": "spans", "current": Channel(type=standard_artifacts.Schema)}, "current"),
    ],
)
def test_components_check_their_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        component.PreviousSpan(**arguments)


def test_a_component_creates_its_output_channels():
    node = component.PreviousSpan(current=STATISTICS, spans_dir="spans")
    assert {name: output.type for name, output in node.outputs.items()} == {
        "statistics": standard_artifacts.ExampleStatistics,
        "schema": standard_artifacts.Schema,
    }
    assert node.spec.exec_properties == {"spans_dir": "spans"}
