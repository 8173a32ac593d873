"""`tfx-vision monitor`: verdicts and exit codes, files, history, and errors; on a log without pixels."""

import itertools
import json
import time

import jsonschema
import numpy as np
import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from typer.testing import CliRunner

from components.monitoring_reference.artifact import Reference, ReferenceSummary
from pipeline.cli import json_output
from pipeline.cli.app import app
from pipeline.config import loading
from pipeline.execution.run_lock import run_lock
from pipeline.history import metadata_store, monitoring_history
from pipeline.monitoring import following, page, prometheus
from serving.monitor import result as results
from serving.request_log.options import Content
from trainer_module import image_statistics
from trainer_module.monitored import MonitoredImages, MonitoredPredictions, stored_embeddings

CLASSES = ("a<b>", "owl", "wren")


def scores(rng, num, confidence=4.0):
    logits = rng.normal(size=(num, 3)) + confidence * np.eye(3)[rng.integers(0, 3, num)]
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)


class Pipeline:
    """A pipeline that has pushed version 7, and its request log."""

    def __init__(self, root, request_logs, rng):
        """Writes the version, its reference and the run history."""
        self.arguments = ["monitor", "digits", "--set", f"pipeline.root={root}", "--set", "monitoring.min_images=50"]
        overrides = [each for each in self.arguments if "=" in each]
        self.config = loading.load("digits", data=None, overrides=overrides)
        self.prefix, self._logs, self.rng = self.config.run_dir / "requests" / "digits", request_logs, rng
        self.folder = self.config.run_dir / "monitor"
        self.push(7)

    def push(self, version):
        """Adds a version with a reference."""
        served = self.config.run_dir / "serving" / "digits" / str(version)
        served.mkdir(parents=True)
        (served / "saved_model.pb").write_bytes(b"")
        known = scores(self.rng, 400)
        images = MonitoredImages(
            np.ones((400, len(image_statistics.NAMES)), np.float32),
            stored_embeddings(self.rng.normal(size=(400, 4))),
            MonitoredPredictions(known, known.argmax(axis=1), known.max(axis=1)),
            (np.arange(400) % 10 > 0).astype(np.float32),
            [(CLASSES[each],) for each in known.argmax(axis=1)],
        )
        summary = ReferenceSummary(
            version=version, task="classification", classes=CLASSES, ignore_id=None, window=(0, 65535), split="test",
            images=400, split_images=1400,
        )  # fmt: skip
        uri = self.config.run_dir / "artifacts" / "MonitoringReference" / str(version)
        Reference(summary, images).write(str(uri))
        store = metadata_store.open_store(self.config.metadata_path)
        kind = store.put_artifact_type(mlmd.ArtifactType(name=metadata_store.MONITORING_REFERENCE))
        artifact = mlmd.Artifact(type_id=kind, uri=str(uri))
        artifact.custom_properties["version"].int_value = version
        store.put_artifacts([artifact])

    def log(self, num=200, confidence=4.0, version=7, labels=None, since=None):
        """Logs requests with one image each."""
        log = self._logs.LogWriter(self.prefix, Content.RESPONSE)
        start = time.time() - 600 if since is None else since
        for index, row in enumerate(scores(self.rng, num, confidence)):
            label = [] if labels is None else [labels(index, CLASSES[row.argmax()])]
            log.add(
                start + index, [b"x"], {"probabilities": row[np.newaxis]}, model="digits", version=version, labels=label
            )
        log.close()

    def run(self, *options):
        """Runs the command; returns its exit code."""
        done = CliRunner().invoke(app, [*self.arguments, *options], catch_exceptions=False)
        self.error = done.stderr  # of messages that end the command
        return done.exit_code


@pytest.fixture
def pipeline(tmp_path, request_logs, rng):
    return Pipeline(tmp_path, request_logs, rng)


def test_requests_like_the_test_split_are_no_drift(pipeline, capfd):
    pipeline.log()
    assert pipeline.run("--json") == 0
    output = json.loads(capfd.readouterr().out)
    jsonschema.validate(output, json.loads(json_output.schema("monitor")))
    assert (output["alarm"], output["version"], output["window"]["images"]) == (False, 7, 200)
    assert (output["reference_images"], output["split_images"]) == (400, 1400)
    assert "of 1,400 images of the test split" in (pipeline.folder / "monitor.html").read_text()
    assert {test["kind"] for test in output["tests"]} == {"outputs", "classes", "confidence"}
    assert any("no images" in note for note in output["notes"])
    assert not results.read(pipeline.folder).is_alarm_for(7)


def test_drift_is_an_alarm_in_all_outputs(pipeline, capfd):
    pipeline.log(confidence=0.5)
    assert pipeline.run() == 3
    shown = capfd.readouterr().out
    assert "ALARM" in shown and "confidence" in shown and "monitor.html" in shown
    assert results.read(pipeline.folder).is_alarm_for(7)
    html = (pipeline.folder / "monitor.html").read_text()
    assert "Alarm:" in html and "a&lt;b&gt;" in html and "a<b>" not in html
    metrics = (pipeline.folder / "monitor.prom").read_text()
    assert 'tfx_vision_monitor_alarm{model_name="digits",version="7"} 1.0' in metrics
    (stored,) = monitoring_history.read(pipeline.config, 5)
    assert stored == results.read(pipeline.folder)


def test_the_alarm_ends_with_a_new_version(pipeline):
    pipeline.log(confidence=0.5)
    assert pipeline.run() == 3
    pipeline.push(8)
    assert not results.read(pipeline.folder).is_alarm_for(8)
    pipeline.log(version=8, since=time.time() - 300)
    assert pipeline.run() == 0
    last = results.read(pipeline.folder)
    assert last.version == 8 and not last.alarm
    assert [each.version for each in monitoring_history.read(pipeline.config, 5)] == [8, 7]
    assert "Earlier windows" in (pipeline.folder / "monitor.html").read_text()


def test_feedback_is_compared_with_the_test_split(pipeline, capfd):
    pipeline.log(labels=lambda index, predicted: "owl" if index % 2 else predicted)
    assert pipeline.run("--json") == 3
    output = json.loads(capfd.readouterr().out)
    everything = output["quality"][0]
    assert output["quality_name"] == "accuracy" and everything["slice"] == "all" and everything["worse"]
    assert everything["reference"] == 0.9 and everything["low"] < everything["value"] < everything["high"] < 0.9
    assert {test["kind"] for test in output["tests"] if test["drift"]} == {"quality"}


def test_feedback_that_cannot_be_read_is_mentioned(pipeline, capfd):
    pipeline.log(labels=lambda index, predicted: 3 if index < 4 else predicted)
    assert pipeline.run() == 0
    assert "The feedback of 4 images is ignored: it is not a class name." in capfd.readouterr().out


def test_no_model_was_pushed(pipeline, capfd):
    (pipeline.config.run_dir / "serving" / "digits" / "7").rename(pipeline.folder.with_name("elsewhere"))
    assert pipeline.run() == 1
    assert "no model of this configuration has been pushed" in pipeline.error


def test_a_version_without_reference(pipeline, capfd):
    base = pipeline.config.run_dir / "serving" / "digits"
    (base / "7").rename(base / "9")
    assert pipeline.run() == 1
    assert "Version 9 has no monitoring reference" in pipeline.error


def test_a_reference_from_elsewhere(pipeline, capfd):
    location = pipeline.config.run_dir / "artifacts" / "MonitoringReference" / "7"
    pipeline.config.metadata_path.unlink()
    pipeline.log()
    assert pipeline.run("--reference", str(location)) == 0
    assert "This window is not in the history." in capfd.readouterr().err
    pipeline.push(8)
    assert pipeline.run("--reference", str(location)) == 1
    assert "is the reference of version 7, and version 8 is served" in pipeline.error
    assert pipeline.run("--reference", str(location.with_name("missing"))) == 1
    assert "missing/reference.json" in pipeline.error


def test_no_log_and_a_log_of_another_version(pipeline, capfd):
    assert pipeline.run() == 1
    assert "--request-log" in pipeline.error
    pipeline.log(version=6)
    assert pipeline.run() == 1
    assert "0 images of version 7" in pipeline.error and "200 requests of version 6" in pipeline.error


def test_a_port_without_follow_is_wrong_usage(pipeline, capfd):
    assert pipeline.run("--metrics-port", "9000") == 2


def test_the_history_waits_for_a_run(pipeline, capfd):
    pipeline.log()
    with run_lock(pipeline.config.run_dir):
        assert pipeline.run() == 0
    assert "This window is not in the history. Another run uses" in capfd.readouterr().err
    assert results.read(pipeline.folder) and not monitoring_history.read(pipeline.config, 5)


def test_following_tests_every_request_once_and_adopts_a_new_version(pipeline):
    waited, reasons = [], []

    def sleep(_):
        waited.append(len(waited))
        step = len(waited)
        if step == 1:
            pipeline.log(num=80, since=time.time() - 500)  # fewer than a window has, but the first one
        elif step == 2:
            pipeline.log(num=60, since=time.time() - 400)
        elif step == 3:
            pipeline.log(num=60, since=time.time() - 300)
        elif step == 4:
            pipeline.push(8)
        elif step == 5:
            pipeline.log(num=100, version=8, since=time.time() - 200, confidence=0.5)

    config = loading.load(
        "digits",
        data=None,
        overrides=[
            f"pipeline.root={pipeline.config.pipeline.root}",
            "monitoring.window=100",
            "monitoring.min_images=50",
        ],
    )
    results = following.results(config, str(pipeline.prefix), None, 1.0, reasons.append, sleep)
    first, second, third = (result for result, _ in itertools.islice(results, 3))
    assert [each.window.images for each in (first, second, third)] == [80, 100, 100]
    assert second.window.first > first.window.last and len(waited) == 5
    assert [each.version for each in (first, second, third)] == [7, 7, 8]
    assert not first.alarm and not second.alarm and third.is_alarm_for(8)
    assert len(reasons) == 4 and "no request log" in reasons[0] and "of version 8" in reasons[-1]


def test_following_tests_all_windows_that_have_arrived(pipeline):
    def sleep(_):
        pipeline.log(num=150, confidence=0.5, since=time.time() - 500)  # drift
        pipeline.log(num=150, since=time.time() - 300)

    pipeline.log(num=100, since=time.time() - 800)
    root = f"pipeline.root={pipeline.config.pipeline.root}"
    overrides = [root, "monitoring.window=100", "monitoring.min_images=50"]
    config = loading.load("digits", data=None, overrides=overrides)
    results = following.results(config, str(pipeline.prefix), None, 1.0, lambda reason: None, sleep)
    _, first, second, third = (result for result, _ in itertools.islice(results, 4))
    assert [each.window.images for each in (first, second, third)] == [100, 100, 100]
    assert first.window.last < second.window.first < second.window.last < third.window.first
    # The newest window alone has no drift.
    assert first.alarm and not third.alarm


def test_metrics_of_an_earlier_version_disappear(pipeline):
    pipeline.log()
    pipeline.run()
    metrics, result = prometheus.Metrics(), results.read(pipeline.folder)
    metrics.set(result)
    metrics.set(result.model_copy(update={"version": 8}))
    assert b'version="8"' in metrics.text() and b'version="7"' not in metrics.text()


def test_the_page_loads_nothing(pipeline):
    pipeline.log(labels=lambda index, predicted: predicted)
    pipeline.run()
    html = page.render(results.read(pipeline.folder), [])
    assert "://" not in html and "default-src 'none'" in html and "Quality" in html
