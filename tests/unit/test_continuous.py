"""When a watcher starts a run, and what the shadow comparison decides before a push."""

import numpy as np
import pytest

from pipeline.continuous import shadow, triggers
from pipeline.continuous.shadow import ShadowedImage, ShadowReport
from pipeline.continuous.triggers import Observed, WatchState
from trainer_module import features, tasks

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
        ShadowedImage(bytes([index]), None if label is None else {features.CLASS_TEXT: [label]})
        for index, label in enumerate(labels)
    ]
    models = Classifier("the candidate", candidate), Classifier("pets, version 7", served)
    return shadow.compare(images, *models, tasks.get("classification").labeling, max_changed)


def test_changed_predictions_are_reported_and_limited():
    report = compared(lambda c: "dog" if c[0] < 30 else "cat", lambda c: "cat", [None] * 100)
    assert (report.images, report.changed, report.agreement) == (100, 30, 0.7)
    assert [(each.served, each.candidate, each.images) for each in report.changes] == [("cat", "dog", 30)]
    assert report.refused == "" and report.labelled == 0
    assert "30 of 100 logged predictions differ from those of pets, version 7" in report.summary
    limited = compared(lambda c: "dog" if c[0] < 30 else "cat", lambda c: "cat", [None] * 100, max_changed=0.2)
    assert "30.0% of 100 logged predictions" in limited.refused and "allowed 20.0%" in limited.refused


def test_feedback_decides_between_better_and_worse():
    labels = ["dog"] * 40 + [None] * 20
    better = compared(lambda c: "dog", lambda c: "cat", labels)
    assert (better.labelled, better.candidate_quality, better.served_quality) == (40, 1.0, 0.0)
    assert better.refused == "" and better.p_value > 0.99
    worse = compared(lambda c: "cat", lambda c: "dog" if c[0] < 10 else "cat", labels)
    assert "significantly worse than pets, version 7: 0.000 instead of 0.250" in worse.refused
    # A few errors more are chance.
    equal = compared(lambda c: "cat" if c[0] < 2 else "dog", lambda c: "dog", labels)
    assert equal.refused == "" and equal.p_value == pytest.approx(0.25)
    same = compared(lambda c: "dog", lambda c: "dog", labels)
    assert (same.p_value, same.changed) == (1.0, 0)


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
