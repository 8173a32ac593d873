"""`tfx-vision watch`: runs on new spans, on alarms with feedback, once per reason, one watcher per pipeline."""

import json
import time

import pytest
from typer.testing import CliRunner

from components.image_example_gen.labelled_span import Provenance
from pipeline.cli import watch_command
from pipeline.cli.app import app
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.continuous.shadow import ShadowReport
from pipeline.continuous.watcher import Watcher, WatchOptions
from pipeline.execution import local_run
from pipeline.execution.run_lock import AlreadyRunningError, watch_lock
from pipeline.labeling import feedback
from pipeline.labeling.confirmed import ConfirmedImage
from serving.monitor.result import MonitorResult, Window
from trainer_module import features, model_versions

LOG_FILE = "log-20260101T000000000000Z-host-1-0123abcd-000001"


@pytest.fixture
def pets(tmp_path, class_folders):
    """A dataset of one span as configuration, and a watcher of it whose runs only count."""
    (tmp_path / "data").mkdir()
    class_folders({"cat": 4, "dog": 4}, name="data/day-1")

    class Pets:
        root = tmp_path
        config = loading.load(
            "images",
            data=f"{tmp_path}/data/day-{{SPAN}}",
            overrides=[f"pipeline.root={tmp_path / 'runs'}", "pipeline.name=pets", "data.spans=all"],
        )
        runs, lines, exit_code = 0, [], 0

        def start(self):
            self.runs += 1
            return self.exit_code

        def watcher(self, **options):
            settings = {"log": tmp_path / "log", "monitor_dir": tmp_path / "monitor", "min_labels": 2, **options}
            return Watcher(self.config, WatchOptions(start=self.start, on_line=self.lines.append, **settings))

        def raise_alarm(self, version):
            window = Window(log="log", first=1.0, last=2.0, requests=100, images=100)
            MonitorResult(
                created=time.time(), model="pets", version=version, alarm=True, false_alarm_rate=0.01, window=window,
                reference_images=10, tests=(),
            ).write(tmp_path / "monitor")  # fmt: skip

        def add_span(self, number):
            class_folders({"cat": 2, "dog": 2}, name=f"data/day-{number}")

    pets = Pets()
    pets.lines = []
    pets.config.run_dir.mkdir(parents=True)
    return pets


def test_every_span_starts_one_run_also_after_a_restart(pets):
    assert pets.watcher().look() == 0 and pets.runs == 1
    assert pets.watcher().look() is None and pets.runs == 1
    pets.add_span(2)
    pets.exit_code = 3
    watcher = pets.watcher()
    assert watcher.look() == 3 and watcher.look() is None and pets.runs == 2
    assert any("span 2 is new" in line for line in pets.lines) and "the served version stays" in pets.lines[-1]


def test_feedback_after_an_alarm_becomes_the_next_span(pets, make_image, monkeypatch):
    pets.watcher().look()
    images = [
        ConfirmedImage(f"{name}.png", make_image(), {features.CLASS_TEXT: [name]}, "feedback", request_id=f"r-{name}")
        for name in ("cat", "dog")
    ]
    images_of_log = []
    reads = []

    def confirmed(log, model, read_label):
        reads.append((log, model))
        return feedback.LabelledRequests(tuple(images_of_log))

    monkeypatch.setattr(feedback, "confirmed", confirmed)
    served = model_versions.Versions((5,), ())
    monkeypatch.setattr(model_versions, "list_versions", lambda base: served)
    pets.raise_alarm(version=4)  # of an earlier version: over
    assert pets.watcher().look() is None and len(pets.lines) == 2
    pets.raise_alarm(version=5)
    watcher = pets.watcher()
    assert watcher.look() is None and watcher.look() is None
    (line,) = pets.lines[2:]  # one line per alarm
    assert "no labels to train on (0 images with feedback, at least 2 are required)" in line
    assert reads == [(pets.root / "log", "pets")]  # nothing is new: the log is not read again
    pets.raise_alarm(version=5)
    assert watcher.look() is None and len(reads) == 1 and "0 images with feedback" in pets.lines[3]
    images_of_log += images
    (pets.root / f"{LOG_FILE}.feedback.jsonl").touch()
    assert watcher.look() == 0 and pets.runs == 2
    assert {origin.request_id for origin in Provenance.read(str(pets.root / "data" / "day-2")).origins.values()} == {
        "r-cat",
        "r-dog",
    }
    assert watcher.look() is None  # the alarm is the same


def test_a_schedule_needs_no_spans(pets, class_folders):
    folder = class_folders({"cat": 3, "dog": 3}, name="plain")
    config = loading.load("images", data=str(folder), overrides=[f"pipeline.root={pets.root / 'runs'}"])
    pets.config = config
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with pytest.raises(ConfigError, match=r"no \{SPAN\}"):
        pets.watcher()
    assert pets.watcher(every_s=3600.0).look() == 0
    assert pets.watcher(every_s=3600.0).look() is None and pets.runs == 1


def test_one_watcher_per_pipeline(pets):
    with watch_lock(pets.config.run_dir), pytest.raises(AlreadyRunningError, match="Another"):
        with watch_lock(pets.config.run_dir):
            pass


def test_a_damaged_state_is_explained(pets):
    (pets.config.run_dir / "watch.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ConfigError, match=r"watch\.json"):
        pets.watcher()


def test_the_command_runs_once(pets, monkeypatch):
    commands = []
    monkeypatch.setattr(watch_command, "_run", lambda arguments: commands.append(list(arguments)) or 3)
    data = f"{pets.root}/data/day-{{SPAN}}"
    root = f"pipeline.root={pets.root / 'runs'}"
    arguments = ["watch", "images", "--once", "--data", data, "--set", root, "--log", "requests/pets"]
    assert CliRunner().invoke(app, arguments).exit_code == 3
    (command,) = commands
    assert command[:4] == ["run", "images", "--data", data] and f"--set={root}" in command
    assert command[-4:] == ["--shadow", "requests/pets", "--max-changed", "1.0"]
    assert CliRunner().invoke(app, arguments).exit_code == 0 and len(commands) == 1
    submitted = [*arguments, "--submit", "http://kubeflow", "--every", "0.001s"]
    CliRunner().invoke(app, submitted)
    assert commands[-1][:4] == ["submit", "images", "--host", "http://kubeflow"] and "--shadow" not in commands[-1]
    assert CliRunner().invoke(app, [*arguments, "--every", "soon"]).exit_code == 2


@pytest.mark.parametrize("arguments", [[], ["--shadow", "log"]])
def test_a_run_removes_the_shadow_report_of_an_earlier_one(tmp_path, class_folders, monkeypatch, arguments):
    folder = tmp_path / "runs" / "pets"
    folder.mkdir(parents=True)
    ShadowReport(candidate="the candidate", served="pets, version 6", images=0).write(str(folder))
    during = []

    def fail(config, dataset, **options):
        during.extend(path.name for path in folder.iterdir())
        raise ConfigError("the disk is too small")

    monkeypatch.setattr(local_run, "execute", fail)
    settings = ["--data", str(class_folders({"cat": 4, "dog": 4})), "--set", f"pipeline.root={tmp_path / 'runs'}"]
    done = CliRunner().invoke(app, ["run", "images", *settings, "--set", "pipeline.name=pets", *arguments])
    assert done.exit_code == 2 and "the disk is too small" in done.output
    # The report would be that of a run which has compared nothing.
    assert "run.log" in during and ShadowReport.FILE not in during
