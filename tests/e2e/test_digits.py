"""The whole way on the digits: images in, a gated, explained, served model out."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ml_metadata.proto import metadata_store_pb2
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from tfx.orchestration import metadata

from pipeline.cli.json_output import run_output
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.execution import dataset, local_run, run_lock
from pipeline.execution.dataset_identity import DatasetIdentity
from pipeline.history import comparison, run_history
from trainer_module import features

EPOCHS = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def overrides(root):
    return [
        f"pipeline.root={root}",
        # Smaller than the network of the preset, and accurate enough.
        "model.blocks=[[16], [32], [64]]",
        "training.learning_rate=0.003",
        f"training.epochs={EPOCHS}",
        "evaluation.thresholds={accuracy=0.85}",
        "evaluation.change_thresholds={accuracy=0.05}",
    ]


@pytest.fixture(scope="module")
def execute(overrides):
    """Runs the pipeline in this process, which has imported TFX already."""

    def run(*more, **arguments):
        loaded = loading.load("digits", overrides=[*overrides, *more])
        return local_run.execute(loaded, dataset.prepare(loaded), **arguments)

    return run


@pytest.fixture(scope="module")
def first(execute):
    """The first run."""
    return execute()


@pytest.fixture(scope="module")
def test_examples(first, root):
    """The held-out test split as it was written."""
    files = tf.io.gfile.glob(str(root / "digits/artifacts/ImageExampleGen/examples/*/Split-test/*"))
    records = tf.data.TFRecordDataset(files).as_numpy_iterator()
    return [tf.train.Example.FromString(record).features.feature for record in records]


def of(example, key):
    return example[key].bytes_list.value[0]


def test_the_first_run_pushes_a_good_model(first):
    assert (first.status, first.exit_code, first.error) == ("done", 0, None)
    assert all(node.state == "complete" for node in first.nodes)
    assert [node.id for node in first.nodes][:7] == [
        "ImageExampleGen",
        "StatisticsGen",
        "PreviousSpan",
        "SchemaGen",
        "ExampleValidator",
        "Transform",
        "Trainer",
    ]
    result = first.result
    assert result.blessed and result.servable and not result.gates.has_baseline and result.refusals == []
    assert result.slices[0].metrics["accuracy"] >= 0.85
    assert sorted(os.listdir(Path(result.serving_dir).parent)) == [str(result.pushed_version)]
    assert Path(result.serving_dir, "saved_model.pb").is_file()


def test_the_run_and_the_served_version_name_their_dataset(first, root):
    stored = DatasetIdentity.read(str(root / "digits"))
    assert (stored.root, len(stored.classes), len(stored.files)) == (str(root / "digits" / "data" / "digits"), 10, 64)
    manifest = json.loads(Path(first.result.serving_dir, "assets.extra", "manifest.json").read_text())
    assert manifest["dataset"] == json.loads(stored.provenance()) | {"classes": list(stored.classes)}


def test_the_report_contains_the_configuration_of_the_run(first, root, tmp_path):
    path = root / "digits" / "report.html"
    assert run_output(first).model_dump()["report"] == str(path)
    assert not [name for name in os.listdir(path.parent) if name.endswith(".tmp")]
    text = path.read_text()
    assert f"Pushed as version {first.result.pushed_version}" in text and len(text) < 5_000_000
    assert f"{first.result.slices[0].metrics['accuracy']:.4f}" in text
    saved = tmp_path / "model.toml"
    (encoded,) = re.findall(r'href="data:application/toml;base64,([^"]+)" download="model.toml"', text)
    saved.write_bytes(base64.b64decode(encoded))
    again = loading.load(str(saved))
    assert again.pipeline.root == root and again.training.epochs == EPOCHS


def test_the_json_object_has_every_key_of_the_contract(first):
    output = json.loads(run_output(first).as_text())
    assert {"status", "nodes", "metrics", "blessed", "pushed_version", "serving_dir", "report", "quarantined"} <= set(
        output
    )
    assert np.sum(output["confusion_matrix"]) == output["metrics"]["examples"]
    assert output["classes"]["7"]["support"] == sum(output["confusion_matrix"][7])
    assert {"slant = left", "brightness = dark"} <= set(output["slices"])
    assert output["examples"] == 1797 and output["quarantined"] == []
    assert output["nodes"][0] == {"id": "ImageExampleGen", "state": "complete", "seconds": pytest.approx(5, abs=60)}


def test_every_example_is_in_one_split(first):
    splits = first.result.data.splits
    assert sum(counts.examples for counts in splits.values()) == 1797
    assert all(sum(counts.classes.values()) == counts.examples for counts in splits.values())
    assert all(len(counts.classes) == 10 for counts in splits.values())


@pytest.fixture(scope="module")
def server(first, running_server):
    """Serves the pushed model on loopback."""
    with running_server("digits", Path(first.result.serving_dir).parent) as server:
        yield server


@pytest.fixture(scope="module")
def served(server, both_clients):
    """The pushed model behind both protocols."""
    with both_clients(server, "digits") as clients:
        yield clients


def test_both_protocols_return_the_same_predictions(served, first, test_examples):
    by_grpc, by_rest = (client.predict([of(e, features.IMAGE_ENCODED) for e in test_examples]) for client in served)
    assert [p.label for p in by_grpc] == [p.label for p in by_rest]
    np.testing.assert_allclose([p.score for p in by_grpc], [p.score for p in by_rest], rtol=1e-6)
    assert served[0].status() == served[1].status() == [(first.result.pushed_version, "AVAILABLE")]


def test_the_studio_shows_the_predictions_of_the_model(
    first, server, served, test_examples, overrides, open_page, studio_browser, tmp_path
):
    from playwright.sync_api import expect

    config = loading.load("digits", overrides=overrides)
    options = studio_browser.options(server, configs=(config,))
    (tmp_path / "image.png").write_bytes(of(test_examples[0], features.IMAGE_ENCODED))
    (expected,) = served[0].predict([tmp_path / "image.png"], top_k=5)
    with studio_browser.serve(options) as address:
        page = open_page(address)
        page.goto("/p/digits/try")
        view = studio_browser.predict(page, lambda: page.locator("#file").set_input_files(tmp_path / "image.png"))
        assert view["version"] == first.result.pushed_version
        expect(page.locator("#columns .summary")).to_have_text(expected.label)
        expect(page.locator(".scores tr").first).to_have_text(re.compile(rf"{expected.label}\s*{expected.score:.3f}"))
        assert studio_browser.overlay_pixels(page) > 0
        page.locator("#opacity").fill("25")
        assert page.locator("#columns .overlay").evaluate("(canvas) => canvas.style.opacity") == "0.25"
        page.locator("#overlay").select_option("none")
        assert studio_browser.overlay_pixels(page) == 0

        # The code below the image returns the same prediction.
        printed = studio_browser.run_snippets(page, tmp_path)
        label, score = printed["Python"].split()
        assert label == expected.label and float(score) == pytest.approx(expected.score, abs=1e-6)
        (by_curl,) = json.loads(printed["curl"])["predictions"]
        assert by_curl["label"] == expected.label and by_curl["score"] == pytest.approx(expected.score, abs=1e-6)
        label, score = printed["Command line"].split()[1:3]
        assert label == expected.label and float(score) == pytest.approx(expected.score, abs=1e-5)


def test_the_evaluators_metrics_equal_those_of_served_predictions(served, first, test_examples):
    answers = [p.label for p in served[0].predict([of(e, features.IMAGE_ENCODED) for e in test_examples])]
    truth = [of(e, features.CLASS_TEXT).decode() for e in test_examples]
    slants = [of(e, "slice/slant").decode() for e in test_examples]
    by_name = {entry.name: entry for entry in first.result.slices}
    selections = {"all": np.full(len(truth), True)}
    selections |= {f"slant = {slant}": np.array(slants) == slant for slant in set(slants)}
    assert set(selections) <= set(by_name)
    for name, chosen in selections.items():
        truth_here, answers_here = np.array(truth)[chosen], np.array(answers)[chosen]
        entry = by_name[name]
        assert entry.examples == chosen.sum()
        assert entry.metrics["accuracy"] == pytest.approx((truth_here == answers_here).mean(), abs=1e-6)
        expected = precision_recall_fscore_support(
            truth_here, answers_here, labels=list("0123456789"), zero_division=0.0
        )
        if name == "all":
            assert (
                entry.confusion_matrix == confusion_matrix(truth_here, answers_here, labels=list("0123456789")).tolist()
            )
        for column, figure in enumerate(("precision", "recall", "f1", "support")):
            for digit in "0123456789":
                measured = entry.class_metrics_and_support[digit][figure]
                if figure != "support" and entry.support[digit] == 0 and np.isnan(measured):
                    assert figure == "recall" or digit not in answers_here
                else:
                    assert measured == pytest.approx(expected[column][int(digit)], abs=1e-6)


def test_decisions_are_explained(first):
    folder = Path(first.result.explanations).parent
    entries = json.loads((folder / "index.json").read_text())["predictions"]
    right = [entry for entry in entries if entry["correct"]]
    assert {entry["label"] for entry in right} == set("0123456789")
    assert first.result.num_explained == len(entries)
    for entry in entries:
        overlay = np.asarray(Image.open(folder / entry["overlay"]))
        assert overlay.shape == (224, 224, 3)
        assert np.ptp(overlay) > 50
        assert entry["overlay"] in (folder / "index.html").read_text()


def executions_of_last_run(root):
    """Node type → state, from ML Metadata, of the newest run."""
    connection = metadata.sqlite_metadata_connection_config(str(root / "digits" / "metadata.sqlite"))
    with metadata.Metadata(connection) as handle:
        runs = handle.store.get_contexts_by_type("pipeline_run")
        executions = handle.store.get_executions_by_context(max(runs, key=lambda run: run.id).id)
        types = {kind.id: kind.name.rsplit(".", 1)[-1] for kind in handle.store.get_execution_types()}
    state = metadata_store_pb2.Execution.State
    return {types[execution.type_id]: state.Name(execution.last_known_state) for execution in executions}


def test_a_second_run_uses_the_cache_for_every_node(first, execute, root):
    second = execute()
    states = executions_of_last_run(root)
    assert len(states) == 13
    # The resolver is a question to ML Metadata, and asked in every run.
    assert {node for node, state in states.items() if state != "CACHED"} == {"Resolver"}
    assert second.exit_code == 0
    assert second.result.pushed_version == first.result.pushed_version
    assert second.result.slices[0].metrics == first.result.slices[0].metrics


def test_a_missed_threshold_refuses_and_pushes_nothing(first, execute, served):
    refused = execute("evaluation.thresholds={cross_entropy=0.0}")
    assert (refused.status, refused.exit_code) == ("refused", 3)
    assert {node.id for node in refused.nodes if node.state == "complete"} == {
        "PreviousSpan",
        "Resolver",
        "Evaluator",
        "Pusher",
        "MonitoringReference",
        "ModelReport",
    }
    assert "Refused by Evaluator" in Path(refused.result.report).read_text()
    (refusal,) = refused.result.refusals
    assert refusal.text.startswith("Evaluator: cross-entropy is 0.")
    assert "must be at most 0" in refusal.text
    assert run_output(refused).model_dump(by_alias=False)["refusals"] == [refusal._asdict()]
    assert (refusal.applies_to, refusal.bound, refusal.missed_by) == ("all", 0.0, refusal.value)
    assert refused.result.pushed_version is None
    assert os.listdir(Path(first.result.serving_dir).parent) == [str(first.result.pushed_version)]
    assert [client.status() for client in served] == [[(first.result.pushed_version, "AVAILABLE")]] * 2


def test_classes_and_slices_below_their_thresholds_are_refused(first, execute):
    rules = {
        "evaluation.class_thresholds.precision": "{3=1.0, 8=1.0}",
        "evaluation.slice_thresholds.cross_entropy": '{"slant = left"=0.0}',
        "evaluation.label_groups": "{round=['0', '6', '8', '9'], straight=['1', '7']}",
        "evaluation.slices": '["slant", ["slant", "label_group"], "label_group"]',
    }
    refused = execute(*(f"{key}={value}" for key, value in rules.items()))
    assert refused.exit_code == 3
    names = {figures.name for figures in refused.result.slices}
    assert {"label_group = round", "label_group = straight, slant = left"} <= names
    short = [name for name in "38" if refused.result.slices[0].class_metrics[name]["precision"] < 1.0]
    assert [(gate.class_name, gate.slice) for gate in refused.result.gates.failures] == [
        *((name, "all") for name in short),
        (None, "slant = left"),
    ]
    assert [row.applies_to for row in refused.result.refusals] == [*(f"class {name}" for name in short), "slant = left"]
    assert refused.result.refusals[-1].text.startswith("Evaluator: cross-entropy of slant = left is 0.")


def test_a_model_that_is_too_large_or_too_slow_is_refused(first, execute):
    refused = execute("serving.max_size_mb=0.001", "serving.max_latency_ms=0.0001")
    assert (refused.status, refused.exit_code) == ("refused", 3)
    assert refused.result.blessed and not refused.result.servable
    rows = {row["figure"]: row for row in run_output(refused).model_dump()["refusals"]}
    assert set(rows) == {"size in MB", "latency in ms, 95th percentile"}
    assert rows["size in MB"]["value"] == pytest.approx(0.001 + rows["size in MB"]["missed_by"])
    assert refused.result.pushed_version is None
    assert os.listdir(Path(first.result.serving_dir).parent) == [str(first.result.pushed_version)]


def test_unfaithful_explanations_are_refused(first, execute):
    refused = execute("grad_cam.thresholds={deletion_auc=0.0, insertion_auc=0.0}")
    assert (refused.status, refused.exit_code) == ("refused", 3)
    ran = {node.id for node in refused.nodes if node.state == "complete"}
    assert ran == {"PreviousSpan", "Resolver", "GradCam", "Pusher", "MonitoringReference", "ModelReport"}
    assert refused.result.blessed and refused.result.servable
    (refusal,) = refused.result.refusals
    value = run_output(refused).model_dump()["faithfulness"]["deletion_auc"]
    assert (refusal.gate, refusal.metric, refusal.bound, refusal.side) == ("GradCam", "deletion_auc", 0.0, "≤")
    assert refusal.missed_by == refusal.value == value > 0.0
    assert refused.result.pushed_version is None
    assert os.listdir(Path(first.result.serving_dir).parent) == [str(first.result.pushed_version)]
    report = Path(refused.result.report).read_text()
    assert "Refused by GradCam" in report and "deletion_auc is" in report


def test_the_history_lists_the_outcomes_of_runs(first, execute, overrides):
    record = run_history.read(loading.load("digits", overrides=overrides))
    runs = record.newest(len(record))[::-1]
    version = first.result.pushed_version
    assert [(str(run.verdict), run.version) for run in runs[:3]] == [
        ("pushed", version),
        ("pushed", version),
        ("refused by Evaluator", None),
    ]
    assert {run.examples for run in runs} == {1797} and len({run.fingerprint for run in runs}) == 1
    by_size = comparison.compare(runs[0], next(run for run in runs if run.verdict.node == "ServingValidator"))
    assert by_size.settings["serving.max_size_mb"] == (None, 0.001)
    assert any("size in MB" in reason for reason in by_size.second.reasons)
    (unfaithful,) = [run for run in runs if run.verdict.node == "GradCam"]
    assert unfaithful.verdict.status == "refused" and "GradCam: deletion_auc is" in unfaithful.reasons[-1]


def test_a_part_of_the_pipeline(first, execute):
    part = execute(from_node="StatisticsGen", to_node="SchemaGen")
    assert part.exit_code == 0
    assert {node.id for node in part.nodes if node.state == "cached"} == {"StatisticsGen", "SchemaGen"}
    assert part.result.pushed_version is None


def test_unconnected_nodes_are_an_error(first, execute):
    with pytest.raises(ConfigError, match="--from ServingValidator is not connected with --to GradCam"):
        execute(from_node="ServingValidator", to_node="GradCam")


def test_a_killed_trainer_is_resumed_and_its_worse_model_is_refused(first, execute, overrides, root, caplog):
    worse = [
        "training.learning_rate=1e-6",
        "evaluation.thresholds={accuracy=0.0}",
        "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
    ]
    command = [sys.executable, "-m", "pipeline", "run", "digits", "--json"]
    for override in [*overrides, *worse]:
        command += ["--set", override]
    log = root / "digits" / "run.log"
    log.unlink(missing_ok=True)
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (log.is_file() and "epoch 3/" in log.read_text()):
        assert running.poll() is None
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL

    # The same command, in this process.
    with caplog.at_level(logging.INFO, features.PROGRESS_LOGGER):
        done = execute(*worse)
    states = {node.id: node.state for node in done.nodes}
    before = ("ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Transform")
    assert {states[node] for node in before} == {"cached"}
    assert states["Trainer"] == "complete"
    # An epoch is logged before its checkpoint is complete; that of the epoch before is.
    assert re.search(r"resuming after epoch [2-8]\b", caplog.text)

    assert (done.status, done.exit_code, done.error) == ("refused", 3, None)
    assert done.result.gates.has_baseline
    figures = done.result.slices[0]
    assert figures.metrics["accuracy"] < 0.5  # the new model's, not the baseline's
    assert np.trace(figures.confusion_matrix) / np.sum(figures.confusion_matrix) == pytest.approx(
        figures.metrics["accuracy"]
    )
    (refusal,) = done.result.refusals
    assert "it may be at most 0.05 worse than the last blessed model's 0.9" in refusal.text
    assert refusal.missed_by > 0.3
    assert done.result.pushed_version is None
    assert os.listdir(Path(first.result.serving_dir).parent) == [str(first.result.pushed_version)]


def test_a_deleted_version_is_pushed_again(first, execute):
    shutil.rmtree(first.result.serving_dir)
    again = execute()
    assert {node.id: node.state for node in again.nodes}["Pusher"] == "complete"
    assert Path(again.result.serving_dir, "saved_model.pb").is_file()
    assert again.result.pushed_version > first.result.pushed_version


def test_two_runs_at_once_are_refused(tmp_path):
    with (
        run_lock.run_lock(tmp_path),
        pytest.raises(run_lock.AlreadyRunningError, match="Another run uses"),
        run_lock.run_lock(tmp_path),
    ):
        pass
