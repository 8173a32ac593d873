"""When a watcher starts a run, and what the shadow comparison decides before a push."""

import numpy as np
import pytest

from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.continuous import before_push, shadow, triggers
from pipeline.continuous.shadow import ShadowedImage, ShadowReport
from pipeline.continuous.triggers import Observed, WatchState
from pipeline.labeling import predictors
from trainer_module import features, model_versions, tasks

HOUR = 3600.0


def trigger(state, observed, every_s=None):
    trigger = triggers.find(state, observed, every_s)
    return trigger and trigger.kind


def test_a_new_span_starts_one_run():
    state, observed = WatchState(), Observed(100.0, (3, 0))
    assert trigger(state, observed) == triggers.SPAN
    running = triggers.started(state, observed)
    assert trigger(triggers.ended(running, 0), observed._replace(now=10 * HOUR)) is None
    # A refused run is not repeated for the same span, and a corrected span is a new one.
    refused = triggers.ended(running, 3)
    assert trigger(refused, observed._replace(now=10 * HOUR)) is None
    assert trigger(refused, Observed(200.0, (3, 1))) == triggers.SPAN
    assert trigger(refused, Observed(200.0, (2, 5))) is None


def test_a_failed_run_is_repeated_with_growing_pauses():
    observed = Observed(0.0, (1, 0))
    state = triggers.ended(triggers.started(WatchState(), observed), 1)
    assert trigger(state, observed._replace(now=59.0)) is None
    assert trigger(state, observed._replace(now=61.0)) == triggers.RETRY
    state = triggers.ended(triggers.started(state, observed._replace(now=61.0)), 1)
    assert trigger(state, observed._replace(now=300.0)) is None
    assert trigger(state, observed._replace(now=661.0)) == triggers.RETRY
    state = triggers.ended(triggers.started(state, observed._replace(now=661.0)), 1)
    assert state.attempts == triggers.MOST_ATTEMPTS
    assert trigger(state, observed._replace(now=100 * HOUR)) is None
    assert trigger(state, Observed(100 * HOUR, (2, 0))) == triggers.SPAN
    # One success, and the count begins again.
    assert triggers.ended(state, 0).attempts == 0


def test_a_run_that_a_restart_interrupted_counts_as_failed():
    state = triggers.started(WatchState(), Observed(5.0, (1, 0)))
    assert triggers.resumed(state).exit_code == 1 and not triggers.resumed(state).running
    done = triggers.ended(state, 0)
    assert triggers.resumed(done) == done


def test_the_schedule_counts_from_the_start_of_the_last_run():
    state = triggers.ended(triggers.started(WatchState(), Observed(HOUR)), 0)
    assert trigger(state, Observed(2 * HOUR - 1.0), every_s=HOUR) is None
    assert trigger(state, Observed(2 * HOUR), every_s=HOUR) == triggers.SCHEDULE
    assert trigger(state, Observed(2 * HOUR)) is None


def test_an_alarm_is_open_until_a_run_starts():
    observed = Observed(100.0, (1, 0), alarm=90.0)
    state = WatchState(span=(1, 0))
    assert triggers.alarm_is_open(state, observed) and trigger(state, observed) is None
    labelled = observed._replace(span=(2, 0))
    assert "alarm" in triggers.find(state, labelled, None).text
    state = triggers.started(state, labelled)
    assert not triggers.alarm_is_open(state, labelled)
    assert triggers.alarm_is_open(state, labelled._replace(alarm=95.0))


def test_the_state_survives_a_restart(tmp_path):
    state = triggers.started(WatchState(), Observed(7.0, (4, 2), alarm=6.0))
    state.write(str(tmp_path))
    assert WatchState.read(str(tmp_path)) == state


# === Shadow comparison ===

CLASSES = ("cat", "dog")


class Classifier:
    """Predicts the name that an image file is mapped to."""

    key, classes = "", CLASSES

    def __init__(self, description, name):
        """Takes the function from a file to a name."""
        self.description, self._name = description, name

    def outputs(self, wanted, encoded):
        """See `Predictor`."""
        labels = [self._name(content) for content in encoded]
        ids = [CLASSES.index(label) for label in labels]
        return {"label": np.array([label.encode() for label in labels], object), "probabilities": np.eye(2)[ids]}


def compared(candidate, served, labels, max_changed=1.0):
    images = [
        ShadowedImage(bytes([index]), f"r-{index}", None if label is None else {features.CLASS_TEXT: [label]})
        for index, label in enumerate(labels)
    ]
    models = Classifier("the candidate", candidate), Classifier("pets, version 7", served)
    return shadow.compare(images, *models, tasks.get("classification").labeling, max_changed)


def test_changed_predictions_are_reported_and_limited():
    report = compared(lambda c: "dog" if c[0] < 30 else "cat", lambda c: "cat", [None] * 100)
    assert (report.images, report.changed, report.agreement) == (100, 30, 0.7)
    assert [(each.served, each.candidate, each.images) for each in report.changes] == [("cat", "dog", 30)]
    assert not report.refused and report.labelled == 0
    assert "30 of 100 logged predictions differ from those of pets, version 7" in report.summary
    limited = compared(lambda c: "dog" if c[0] < 30 else "cat", lambda c: "cat", [None] * 100, max_changed=0.2)
    (reason,) = limited.reasons
    assert (reason.value, reason.bound) == (0.3, 0.2)
    assert "30.0% of 100 logged predictions" in reason.detail and "allowed 20.0%" in reason.detail


def test_feedback_decides_between_better_and_worse():
    labels = ["dog"] * 40 + [None] * 20
    better = compared(lambda c: "dog", lambda c: "cat", labels)
    assert (better.labelled, better.candidate_quality, better.served_quality) == (40, 1.0, 0.0)
    assert not better.refused and better.p_value > 0.99
    worse = compared(lambda c: "cat", lambda c: "dog" if c[0] < 10 else "cat", labels)
    (reason,) = worse.reasons
    assert "significantly worse than pets, version 7: 0.000 instead of 0.250" in reason.detail
    assert reason.value is None
    # A few errors more are chance.
    equal = compared(lambda c: "cat" if c[0] < 2 else "dog", lambda c: "dog", labels)
    assert not equal.refused and equal.p_value == pytest.approx(0.25)
    same = compared(lambda c: "dog", lambda c: "dog", labels)
    assert (same.p_value, same.changed) == (1.0, 0)


def test_a_candidate_that_fails_on_an_image_is_refused():
    def fail(content):
        if content[0] == 7:
            raise RuntimeError("{{node cast}} Cast string to float is not supported")
        return "cat"

    report = compared(fail, lambda c: "cat", ["cat"] * 20)
    assert report.images == report.labelled == 7 and report.changed == 0
    (reason,) = report.reasons
    assert reason.detail == "the candidate fails on the image of request r-7: Cast string to float is not supported"
    first = compared(lambda c: fail(b"\7"), lambda c: "cat", [None] * 3)
    assert first.images == 0 and first.agreement is None and "no logged prediction" in first.summary
    # The served version is not what is judged: its failure is one of the run.
    with pytest.raises(RuntimeError, match="Cast string"):
        compared(lambda c: "cat", fail, [None] * 20)


@pytest.fixture
def push_check(monkeypatch, tmp_path):
    """The check before a push, with some logged images; models are stand-ins by folder."""
    models, images = {}, []

    class Model(Classifier):
        def __init__(self, export_dir, description):
            if models[export_dir] is None:
                raise ConfigError(f"{export_dir} cannot be loaded: no such signature")
            super().__init__(description, models[export_dir])

        def close(self):
            pass

    monkeypatch.setattr(predictors, "PushedModel", Model)
    monkeypatch.setattr(shadow, "newest_images", lambda *arguments: images)
    monkeypatch.setattr(model_versions, "list_versions", lambda base: model_versions.Versions((7,), ()))
    config = loading.load("images", overrides=[f"pipeline.root={tmp_path}", "pipeline.name=pets"], needs_data=False)
    config.run_dir.mkdir(parents=True)
    served_dir = f"{config.model_base_path}/7"

    def check(candidate, served, max_changed=1.0, label=None, num=2):
        images[:] = [ShadowedImage(b"a", "r-1", label and {features.CLASS_TEXT: [label]})] * num
        models.update({"candidate": candidate, served_dir: served})
        return before_push.comparison(config, tmp_path / "log", max_changed, lambda note: None)("candidate")

    check.report = lambda: ShadowReport.read(str(config.run_dir))
    return check


def test_a_candidate_that_cannot_be_loaded_is_refused(push_check):
    assert push_check(lambda c: "cat", lambda c: "cat") == []
    (refusal,) = push_check(None, lambda c: "cat")
    assert refusal.text == "Pusher: shadow comparison: candidate cannot be loaded: no such signature"
    assert push_check.report().refused


def test_every_reason_is_a_refusal_with_its_own_numbers(push_check):
    worse, changed = push_check(lambda c: "cat", lambda c: "dog", max_changed=0.5, label="dog", num=20)
    assert worse.metric == "shadow comparison: agreement with feedback" and not worse.is_measured
    assert "0.000 instead of 1.000" in worse.detail and "differ" not in worse.detail
    assert changed.metric == "shadow comparison: changed predictions" and changed.side == "≤"
    assert (changed.value, changed.bound, changed.missed_by) == (1.0, 0.5, 0.5)


def test_a_served_version_that_cannot_be_loaded_is_not_the_fault_of_the_candidate(push_check):
    with pytest.raises(ConfigError, match=r"requires the served version.*7 cannot be loaded.*without --shadow"):
        push_check(lambda c: "cat", None)


def test_the_report_is_stored(tmp_path):
    report = compared(lambda c: "dog", lambda c: "cat", ["dog"] * 5)
    report.write(str(tmp_path))
    assert ShadowReport.read(str(tmp_path)) == report


@pytest.mark.parametrize(
    ("task", "value", "expected"),
    [
        ("classification", "cat", {features.CLASS_TEXT: ["cat"]}),
        ("multi_label", ["dog", "cat", "dog"], {features.CLASS_TEXT: ["cat", "dog"]}),
        ("multi_label", [], {features.CLASS_TEXT: []}),
        ("segmentation", "iVBORw0KGgo=", {features.MASK_ENCODED: [b"\x89PNG\r\n\x1a\n"]}),
        (
            "detection",
            [{"label": "cat", "box": [0, 0.1, 0.5, 1]}],
            {
                **dict(zip(features.BOX_CORNERS, ([0.0], [0.1], [0.5], [1.0]), strict=True)),
                **{features.BOX_CLASSES: ["cat"], features.BOX_DIFFICULT: [0], features.BOX_IS_CROWD: [0]},
            },
        ),
    ],
)
def test_feedback_becomes_a_label(task, value, expected):
    from_feedback = tasks.get(task).labeling.from_feedback
    assert from_feedback(value) == expected
    for wrong in (3, {"label": 1}, [{"box": [1]}], [1]):
        with pytest.raises(ValueError, match="it is not"):
            from_feedback(wrong)
