"""The nodes that only Kubeflow Pipelines runs: what they find, what they refuse, what they leave."""

import json
import subprocess
import sys

import pytest

from components.cluster import executor
from components.cluster.executor import ABSENT, REFUSAL, Artifact


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
def places(tmp_path):
    return {
        "spans_dir": str(tmp_path / "spans"),
        "verdicts_dir": str(tmp_path / "verdicts"),
        "model_base_path": str(tmp_path / "serving"),
        "run_id": "{{$.pipeline_job_uuid}}",
        "final_status": json.dumps({"state": "FAILED"}),
    }


def test_they_load_neither_tfx_nor_tensorflow():
    code = (
        "import sys; import pipeline.kubeflow.entrypoint, components.cluster.executor; "
        "print([name for name in ('tfx', 'tensorflow', 'apache_beam', 'kfp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- Spans ------------------------------------------------------------------------------------------------------


def keep_span(artifact, places, span, name):
    statistics = artifact(f"statistics-{name}", {"Split-train/stats": name}, span=float(span), split_names='["train"]')
    inputs = {
        "anomalies": artifact(f"anomalies-{name}"),
        "statistics": statistics,
        "schema": artifact(f"schema-{name}", {"schema.pbtxt": name}),
    }
    executor.PicturesGate().run(inputs, {}, places)


def find_span(artifact, places, span):
    outputs = {"statistics": artifact(f"found-{span}"), "schema": artifact(f"found-schema-{span}")}
    executor.PreviousSpan().run({"current": artifact(f"current-{span}", span=float(span))}, outputs, places)
    return outputs


def test_the_newest_earlier_span_that_passed_is_found(artifact, places):
    for span, name in ((9, "nine"), (10, "ten"), (12, "twelve")):
        keep_span(artifact, places, span, name)
    found = find_span(artifact, places, 12)
    assert (found["statistics"].path / "Split-train/stats").read_text() == "ten"
    assert (found["schema"].path / "schema.pbtxt").read_text() == "ten"
    assert found["statistics"].properties == {"span": 10.0, "split_names": '["train"]'}


def test_a_span_that_is_run_again_replaces_itself(artifact, places):
    keep_span(artifact, places, 1, "first")
    keep_span(artifact, places, 1, "again")
    found = find_span(artifact, places, 2)
    assert (found["schema"].path / "schema.pbtxt").read_text() == "again"


def test_without_an_earlier_span_what_is_found_says_so_and_is_not_empty(artifact, places):
    keep_span(artifact, places, 5, "five")
    for output in find_span(artifact, places, 5).values():
        assert output.properties == {ABSENT: 1}
        assert list(output.path.iterdir())  # an object store has no empty folders


# --- The model to beat ------------------------------------------------------------------------------------------

EXPORT = {"saved_model.pb": "graph", "variables/data": "1", "assets.extra/labels.json": '["a", "b"]'}


def push(places, version, files):
    for file, text in files.items():
        path = f"{places['model_base_path']}/{version}/{file}"
        subprocess.run(["install", "-D", "/dev/stdin", path], input=text.encode(), check=True)


def find_model(artifact, places, files=None):
    candidate = artifact("candidate", {f"Format-Serving/{name}": text for name, text in (files or EXPORT).items()})
    output = artifact("found")
    executor.ServedModel().run({"candidate": candidate}, {"model": output}, places)
    return output


def test_the_newest_other_version_of_the_same_classes_is_found(artifact, places):
    push(places, 9, EXPORT | {"variables/data": "nine"})
    push(places, 10, EXPORT | {"variables/data": "ten"})
    push(places, 11, EXPORT | {"assets.extra/labels.json": '["a", "c"]'})  # other classes
    push(places, 12, EXPORT)  # the candidate itself: this run was tried again
    push(places, 13, {"variables/data": "half a push"})
    push(places, "13.partial", EXPORT | {"variables/data": "not a version"})
    found = find_model(artifact, places)
    assert (found.path / "Format-Serving/variables/data").read_text() == "ten"
    assert found.properties == {"version": "10"}


@pytest.mark.parametrize("version", [None, 12])
def test_without_another_model_what_is_found_says_so(artifact, places, version):
    if version:
        push(places, version, EXPORT)
    assert find_model(artifact, places).properties == {ABSENT: 1}


# --- Gates and the verdict --------------------------------------------------------------------------------------


def judge(artifact, places, *, pushed, blessed=1.0, servable=1.0, faithful=1.0):
    inputs = {
        "pushed_model": artifact("pushed", **pushed),
        "blessing": artifact("blessing", blessed=blessed),
        "infra_blessing": artifact("infra", blessed=servable),
        "explanations": artifact("explanations", blessed=faithful),
    }
    executor.ModelGate().run(inputs, {}, places)


def verdict(places, capsys):
    capsys.readouterr()
    executor.Verdict().run({}, {}, places)
    return capsys.readouterr().out


def test_refused_pictures(artifact, places, capsys):
    inputs = {key: artifact(key) for key in ("statistics", "schema")}
    inputs["anomalies"] = artifact("anomalies", **{REFUSAL: "There are no cats."})
    with pytest.raises(executor.RefusedError, match=r"ExampleValidator refuses the pictures\. There are no cats\."):
        executor.PicturesGate().run(inputs, {}, places)
    assert verdict(places, capsys) == "verdict: refused by ExampleValidator: There are no cats.\n"
    assert find_span(artifact, places, 7)["schema"].properties == {ABSENT: 1}


def test_a_pushed_model(artifact, places, capsys):
    judge(artifact, places, pushed={"pushed": 1.0, "pushed_version": "7", "pushed_destination": "/served/7"})
    assert verdict(places, capsys) == "verdict: pushed version 7: /served/7\n"


@pytest.mark.parametrize(
    ("verdicts", "who"),
    [
        ({"blessed": 0.0}, "Evaluator"),
        ({"servable": 0.0}, "ServingValidator"),
        ({"faithful": 0.0}, "GradCam"),
        ({"blessed": 0.0, "servable": 0.0}, "Evaluator and ServingValidator"),
    ],
)
def test_a_refused_model(artifact, places, capsys, verdicts, who):
    with pytest.raises(executor.RefusedError, match=f"^{who} refused the model"):
        judge(artifact, places, pushed={"pushed": 0.0}, **verdicts)
    assert verdict(places, capsys).startswith(f"verdict: refused by {who}: ")


def test_a_push_that_did_not_happen_is_no_refusal(artifact, places):
    with pytest.raises(RuntimeError, match="Pusher has not pushed it"):
        judge(artifact, places, pushed={"pushed": 0.0})


def test_a_run_that_came_to_no_gate_has_failed(places, capsys):
    assert verdict(places, capsys) == "verdict: failed before any gate has judged (state FAILED)\n"


def test_the_verdict_of_another_run_is_not_this_ones(artifact, places, capsys):
    with pytest.raises(executor.RefusedError):
        judge(artifact, places, pushed={"pushed": 0.0}, blessed=0.0)
    assert verdict(places | {"run_id": "another"}, capsys).startswith("verdict: failed")
