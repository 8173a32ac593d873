"""The report: its metrics and decisions, and a page that is complete, safe and readable. It does not need TFX."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import html.parser
import io
import itertools
import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data_audit.artifact import AmbiguousPair, Audit, AuditSummary, Suspect
from components.evaluator.artifact import EvaluationResult, GateReport, GateResult, SliceMetrics
from components.example_validator.artifact import DriftReport, Finding
from components.image_example_gen.artifact import (
    DuplicateCounts,
    DuplicateGroup,
    DuplicateImage,
    QuarantinedFile,
    SplitCounts,
    Summary,
)
from components.model_report import (
    charts,
    comparisons,
    gate_tables,
    images,
    metric_tables,
    page,
    rendering,
    summary,
    tables,
    training_curves,
    worst_predictions,
)
from components.model_report.explanations import ExplainedExample
from components.model_report.label_statistics import Distribution, SplitLabels
from components.model_report.sources import ImageSizes, Push, Sources
from components.serving_validator.artifact import ServingCheck
from pipeline.config import loading
from trainer_module import mask_drawing, tasks
from trainer_module.features import SPLITS

NASTY = "<script>alert(1)</script>"
NASTY_FILE = "\"'><img src=x onerror=alert(1)>/a.png"
STYLE = Path(rendering.__file__).parent / "templates" / "style.css.j2"


COMPARISON = tasks.get("segmentation").drawing.comparison


def gate(**values):
    defaults = {
        "setting": "evaluation.thresholds",
        "metric": "accuracy",
        "title": "accuracy",
        "slice": "all",
        "value": 0.9,
        "bound": 0.85,
        "higher_is_better": True,
        "examples": 200,
        "passed": True,
        "detail": "0.9000; must be at least 0.85",
    }
    return GateResult(**defaults | values)


def duplicate_group(kind, paths, name):
    images_ = [DuplicateImage(path=path, classes=(name,), split="train") for path in paths]
    return DuplicateGroup(kind=kind, images=tuple(images_))


def difference(detail):
    return Finding(kind="skew", split="test", feature="image/mean/luma", detail=detail)


@pytest.fixture(scope="module")
def sources_of(evaluation_of):
    """Makes a whole run of a classifier: class names → Sources, with any field replaced."""

    def make(classes=("cat", "dog", "owl"), *, count=200, with_baseline=False, **replaced):
        rng = np.random.default_rng(7)
        labels = rng.integers(0, len(classes), count)
        logits = rng.normal(0, 1, (count, len(classes))) + 3.0 * np.eye(len(classes))[labels]
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        slices = {"brightness = dark": rng.random(count) < 0.3, "camera = b": rng.random(count) < 0.1}
        worse = np.full_like(shares, 1 / len(classes)) * 0.5 + shares * 0.5 if with_baseline else None
        names = list(classes)
        counts = {name: 10 + index for index, name in enumerate(names)}
        image = images.embed_photo(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), "an image")
        example = ExplainedExample(f"{names[0]}/1.png", names[0], names[1], 0.98, image, image)
        defaults = {
            "name": "pets",
            "evaluation": evaluation_of(names, labels, shares, slices, worse),
            "gates": GateReport(has_baseline=with_baseline, results=(gate(),)),
            "blessed": True,
            "checks": [ServingCheck(name="loads in a session", passed=True, detail="signatures: examples")],
            "servable": True,
            "pushed": Push("1795346754", "/models/pets/1795346754"),
            "baseline": "artifact 7" if with_baseline else "",
            "history": [
                {
                    "epoch": str(epoch),
                    "phase": "head" if epoch < 3 else "fine_tuning",
                    "seconds": "2.5",
                    "learning_rate": str(0.01 / (epoch + 1) ** 2),
                    "loss": str(1 / (epoch + 1)),
                    "val_loss": "0.4" if epoch == 4 else "0.5",
                    "accuracy": str(1 - 0.5 / (epoch + 1)),
                    "val_accuracy": "0.8",
                }
                for epoch in range(6)
            ],
            "data": Summary(
                examples=330,
                quarantined=1,
                reasons={"not an image": 1},
                splits={split: SplitCounts(examples=sum(counts.values()), classes=counts) for split in SPLITS},
                duplicates={
                    "exact": DuplicateCounts(groups=1, duplicates=1, leaking_groups=0),
                    "near": DuplicateCounts(groups=0, duplicates=0, leaking_groups=0),
                },
            ),
            "sizes": [ImageSizes("train", (20.0, 200.0, 640.0), (20.0, 100.0, 480.0), {"JPEG": 100, "PNG": 10})],
            "quarantined": [QuarantinedFile(path=f"{names[0]}/bad.png", reason="not an image file")],
            "duplicates": [duplicate_group("exact", ["a.png", "b.png"], names[0])],
            "drift": DriftReport(previous_span=None, skew=()),
            "explained": True,
            "incorrect": [example],
            "color_scale": ["rgb(0, 0, 128)", "rgb(128, 0, 0)"],
            "correct": [dataclasses.replace(example, prediction=names[0])],
            "lineage": [("Code", "0123456789abcdef"), ("Data fingerprint", "ab" * 32)],
            "versions": [("tfx", "1.21.0")],
            "configuration": loading.as_toml(loading.load("digits")),
            "created": datetime.datetime(2026, 11, 22, 10, 0, tzinfo=datetime.UTC),
        }
        return Sources(**defaults | replaced)

    return make


def compare(filename, pixels, mask, predicted, classes, ignore_id=None):
    return comparisons.compare(COMPARISON, filename, pixels, mask, predicted, classes, ignore_id)


def evaluation_of(task, classes, overall):
    evaluation = tasks.get(task).evaluation
    return EvaluationResult(
        task=task,
        split="test",
        classes=classes,
        count_unit=evaluation.count_unit,
        metrics=evaluation.metrics(3),
        candidate=(overall,),
    )


@pytest.fixture(scope="module")
def mask_sources(sources_of):
    """A run of a network for masks."""
    rng = np.random.default_rng(7)
    classes = ("sky", "road", "car")
    compared = []
    for index in range(2):
        mask = rng.integers(0, 3, (24, 24), dtype=np.uint8)
        mask[:, :2] = 255
        predicted = mask.copy()
        predicted[0, 2:] = (mask[0, 2:] + 1) % 3
        pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        compared.append(compare(f"street/{index}.png", pixels, mask, predicted, classes, 255))
    overall = SliceMetrics(
        name="all",
        examples=40,
        metrics={"mean_iou": 0.61, "mean_dice": 0.7, "pixel_accuracy": 0.9},
        support=dict.fromkeys(classes, 120_000),
        class_metrics={
            name: {"iou": iou, "dice": 0.7, "precision": 0.8, "recall": 0.8}
            for name, iou in zip(classes, (0.9, 0.6, math.nan), strict=True)
        },
        confusion_matrix=[[90_000, 10_000, 0], [500, 119_000, 500], [0, 0, 0]],
    )
    return sources_of(
        evaluation=evaluation_of("segmentation", classes, overall),
        explained=False,
        incorrect=[],
        correct=[],
        compared=compared,
        legend=[("sky", "#0072b2"), ("road", "#e69f00"), ("car", "#009e73"), ("ignored", "#808080")],
        history=[],
    )


@pytest.fixture(scope="module")
def box_sources(sources_of):
    """A run of a detector."""
    rng = np.random.default_rng(7)
    classes, drawing = ("cat", "dog"), tasks.get("detection").drawing.comparison
    objects = np.array([[0.1, 0.1, 0.4, 0.4, 0, 0], [0.5, 0.5, 0.9, 0.9, 1, 0]], np.float32)
    compared = []
    for number, shift in ((3, 0.0), (7, 0.15)):
        predicted = np.column_stack([objects[:1], [0.9]]) + np.array([[0, shift, 0, shift, 0, 0, 0]])
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        example = comparisons.compare(drawing, f"{number}.png", pixels, objects, predicted, classes, None)
        error_type = drawing.error_type(objects, predicted, None)
        compared.append(dataclasses.replace(example, error_type=error_type, num_images=number))
    evaluation = tasks.get("detection").evaluation
    overall = SliceMetrics(
        name="all",
        examples=40,
        metrics={metric.name: 0.25 for metric in evaluation.metrics(3) if metric.scope == "overall"},
        support=dict.fromkeys(classes, 30),
        class_metrics={
            name: {metric.name: 0.5 for metric in evaluation.metrics(3) if metric.scope == "per_class"}
            for name in classes
        },
        confusion_matrix=[[20, 2, 8], [1, 25, 4], [3, 0, 0]],
        details={
            "precision_by_recall": [np.linspace(1, 0.2, 101).tolist()] * 2,
            "precision_by_recall_75": [np.linspace(0.8, 0, 101).tolist()] * 2,
            "served_threshold": [[0.4]] * 2,
        },
    )
    buckets = ((0.0, 0.5, 10.0), (0.5, 1.0, 30.0))
    statistics = tasks.get("detection").label_statistics
    distributions = {entry.feature: Distribution(40, 2, 0.0, 0.5, 1.0, buckets) for entry in statistics[:2]}
    distributions[statistics[2].feature] = Distribution(40, 0, 0.5, 1.0, 3.0, ((0.5, 1.0, 20.0), (1.0, 3.0, 20.0)))
    return sources_of(
        evaluation=evaluation_of("detection", classes, overall),
        explained=False,
        incorrect=[],
        correct=[],
        compared=compared,
        comparison_note="Errors are dashed.",
        legend=[("cat", "#0072b2"), ("dog", "#e69f00")],
        labels=[SplitLabels(split, {"cat": 10, "dog": 30}, distributions) for split in SPLITS],
    )


def test_the_page_of_a_detector_has_curves_errors_and_boxes(box_sources):
    text = render(box_sources)
    parsed = Document(text)
    headings = re.findall(r"<h[34]>(.*?)</h[34]>", text)
    assert headings[:5] == ["Precision and recall", "cat", "dog", "Types of errors", "Localisation"]
    assert "Boxes per image" in headings and "Aspect ratio" in headings and "Boxes" in headings
    assert text.count("<p>AP50 0.500, AP75 0.500</p>") == 2
    assert len([values for values in parsed.attributes("circle") if values.get("class") == "dot"]) == 3  # one: legend
    # The type of error of most images comes first.
    assert parsed.text.index("7.png") < parsed.text.index("3.png")
    assert "The most frequent error of 7 images." in text and "The most frequent error of 3 images." in text
    assert "by their most frequent type of error. Errors are dashed." in text
    assert "(background)" in text and "Boxes by class, the rarest first" in text
    sides = {(image["width"], image["height"]) for image in parsed.attributes("img")}
    assert sides == {("40", "40"), ("320", "320")}  # the image, and enlarged drawings


def render(sources):
    return rendering.render(page.build(sources))


def texts(table, column=0):
    return [row[column].text for row in table.rows]


# === The decision ===


def test_a_pushed_model_has_its_version_and_destination(sources_of):
    decision = summary.push_decision(sources_of())
    assert decision.pushed and decision.headline == "Pushed as version 1795346754" and not decision.reasons
    assert "/models/pets/1795346754" in decision.sentence
    assert "no blessed baseline" in decision.baseline


def test_a_refused_model_has_the_gates_and_the_reasons(sources_of):
    results = [
        gate(metric="recall", title="recall", class_name="owl", value=0.5, bound=0.8, passed=False, detail="0.5"),
        gate(
            metric="cross_entropy",
            title="cross-entropy",
            value=0.9,
            bound=0.5,
            higher_is_better=False,
            passed=False,
            detail="0.9",
        ),
        gate(slice="camera = b", passed=None, detail="12 examples are too few"),
        gate(rule="beats_chance", title="accuracy", value=0.6, bound=0.5, passed=False, detail="0.6, p = 0.02"),
        gate(),
    ]
    decision = summary.push_decision(
        sources_of(
            gates=GateReport(has_baseline=True, results=results),
            blessed=False,
            checks=[ServingCheck(name="explain answers", passed=False, detail="heatmap is not finite")],
            servable=False,
            pushed=None,
            baseline="artifact 3",
            with_baseline=True,
        )
    )
    assert not decision.pushed and decision.headline == "Refused by Evaluator and ServingValidator"
    assert "artifact 3" in decision.baseline
    assert [(reason.gate, reason.subject, reason.text) for reason in decision.reasons] == [
        ("Evaluator", "Cross-entropy", "0.9 (missed by 0.4000)"),
        ("Evaluator", "Accuracy", "0.6, p = 0.02"),
        ("Evaluator", "Recall of class owl", "0.5 (missed by 0.3000)"),
        ("ServingValidator", "explain answers", "heatmap is not finite"),
    ]
    assert ("Rules and thresholds passed", "1 of 4") in [(fact.label, fact.value) for fact in decision.facts]


def test_a_model_without_a_checked_threshold_is_refused_with_a_reason(sources_of):
    gates = GateReport(has_baseline=False, results=[])
    decision = summary.push_decision(sources_of(gates=gates, blessed=False, pushed=None))
    assert decision.headline == "Refused by Evaluator"
    assert "no threshold could be checked" in decision.reasons[0].text


def test_unfaithful_explanations_refuse_the_model(sources_of):
    failures = ["insertion_auc is 0.2000; it must be at least 0.5"]
    decision = summary.push_decision(sources_of(explanation_failures=failures, pushed=None))
    assert (decision.pushed, decision.headline) == (False, "Refused by GradCam")
    (reason,) = decision.reasons
    assert reason.gate == "GradCam" and "at least 0.5" in reason.text


def test_an_undefined_value_is_a_reason_in_its_own_words(sources_of):
    gates = GateReport(has_baseline=False, results=[gate(value=None, passed=False, detail="no example of this class")])
    decision = summary.push_decision(sources_of(gates=gates, blessed=False, pushed=None))
    assert decision.reasons[0].text == "no example of this class"


def test_the_weakest_class_is_that_of_the_main_class_metric(sources_of):
    sources = sources_of(("a", "b", "c", "d"))
    (fact,) = [fact for fact in summary.push_decision(sources).facts if fact.label.startswith("Weakest class: ")]
    name = fact.label.removeprefix("Weakest class: ")
    overall = sources.evaluation.overall
    assert overall.value("f1", name) == min(values["f1"] for values in overall.class_metrics.values())
    assert fact.note == "F1" and fact.title


def test_a_baseline_with_other_classes_is_compared_on_the_shared_ones(sources_of):
    sources = sources_of(with_baseline=True)
    shared = sources_of(("cat", "dog"), with_baseline=True).evaluation
    compared = sources.evaluation.with_shared_classes(shared, ("owl",), ("fox",))
    gates = GateReport(has_baseline=True, comparison=compared.shared.sentence, results=[gate()])
    built = page.build(dataclasses.replace(sources, evaluation=compared, gates=gates))
    assert built.decision.baseline == (
        "Compared with the last blessed model (artifact 7) on the 2 classes that both have (added: `owl`; removed: "
        "`fox`)."
    )
    assert [column.name for column in built.metrics.columns][-2:] == [
        "Baseline, shared classes",
        "Change, shared classes",
    ]
    value, before = (shared.candidate[0].value("accuracy"), shared.baseline[0].value("accuracy"))
    accuracy = built.metrics.rows[0]
    assert accuracy[-2].sort == pytest.approx(before) and accuracy[-1].sort == pytest.approx(value - before)
    changes = {row[0].text: row[-2].text for row in built.classes.rows}
    assert changes["owl"] == tables.NO_VALUE and changes["cat"] != tables.NO_VALUE
    render(dataclasses.replace(sources, evaluation=compared, gates=gates))


def test_default_rules_and_warnings_are_on_the_page(sources_of):
    results = [gate(), gate(rule="beats_chance", metric="beats_chance", title="accuracy", passed=False)]
    sources = sources_of(gates=GateReport(has_baseline=False, results=results, warnings=("accuracy = 0.3 is chance.",)))
    built = page.build(sources)
    row = built.thresholds.rows[0]
    assert row[-1].text == "default rule beats_chance" and "guessing the classes" in row[0].title
    assert "<li>accuracy = 0.3 is chance.</li>" in rendering.render(built)


def test_failed_thresholds_come_first_and_passed_ones_by_their_margin():
    results = [gate(value=0.99), gate(value=0.86), gate(passed=None, value=0.1), gate(value=0.8, passed=False)]
    results.append(gate(value=0.2, passed=False))
    table = gate_tables.thresholds_table(results, {"accuracy": "Share of correct predictions."})
    assert texts(table, 3) == ["0.2000", "0.8000", "0.1000", "0.8600", "0.9900"]
    assert [text.split()[0] for text in texts(table, 2)] == ["✗", "✗", "·", "✓", "✓"]
    assert {row[0].title for row in table.rows} == {"Share of correct predictions."}


# === Metrics ===


def with_values(evaluation, **values):
    """An evaluation whose overall metrics have these values, and as baseline others."""
    before, after = (
        evaluation.overall.model_copy(update={"metrics": {name: pair[side] for name, pair in values.items()}})
        for side in (0, 1)
    )
    metrics = tuple(metric for metric in evaluation.metrics if metric.name in values)
    return evaluation.model_copy(update={"candidate": (after,), "baseline": (before,), "metrics": metrics})


def test_a_change_is_better_or_worse_by_the_direction_of_its_metric(sources_of):
    evaluation = with_values(
        sources_of().evaluation, accuracy=(0.5, 0.6), cross_entropy=(0.5, 0.6), macro_f1=(0.5, 0.5)
    )
    rows = metric_tables.metrics_table(evaluation).rows
    assert {row[0].text: (row[-1].text, row[-1].note) for row in rows} == {
        "Accuracy": ("+0.1000", "better"),
        "Cross-entropy": ("+0.1000", "worse"),
        "Macro F1": ("±0.0000", "equal"),
    }


def test_classes_and_slices_are_sorted_worst_first(sources_of):
    evaluation = sources_of(("a", "b", "c", "d")).evaluation
    table = metric_tables.class_table(evaluation, [])
    scores = [row[1].sort for row in table.rows]
    assert scores == sorted(scores) and table.columns[1].name == "F1"
    table = metric_tables.slice_table(evaluation, [gate(slice="camera = b", passed=False)])
    scores = [row[1].sort for row in table.rows]
    assert scores == sorted(scores) and texts(table) != [] and table.pinned[0][0].text == "all examples"
    assert [row[0].note for row in table.rows if row[0].text == "camera = b"] == ["1 threshold failed"]


def test_a_main_metric_of_which_less_is_better_sorts_the_largest_value_first(sources_of):
    evaluation = sources_of(("a", "b", "c")).evaluation
    metrics = tuple(
        metric.model_copy(update={"direction": "lower_is_better"}) if metric.main else metric
        for metric in evaluation.metrics
    )
    evaluation = evaluation.model_copy(update={"metrics": metrics})
    for table in (metric_tables.class_table(evaluation, []), metric_tables.slice_table(evaluation, [])):
        scores = [row[1].sort for row in table.rows]
        assert scores == sorted(scores, reverse=True) and table.sorted_by == 1 and table.descending


def test_a_class_without_examples_is_last_and_has_no_value(mask_sources):
    table = metric_tables.class_table(mask_sources.evaluation, [])
    assert texts(table) == ["road", "sky", "car"] and table.columns[-1].name == "Pixels"
    assert table.rows[-1][1].text == tables.NO_VALUE and math.isnan(table.rows[-1][1].sort)


def test_the_confusion_matrix_is_that_of_the_evaluation(sources_of, mask_sources):
    evaluation = sources_of().evaluation
    confusion, matrix = metric_tables.confusion(evaluation), evaluation.overall.confusion_matrix
    assert [[int(cell.text) for cell in row] for row in confusion.rows] == matrix
    assert all(cell.correct == (i == j) for i, row in enumerate(confusion.rows) for j, cell in enumerate(row))
    worst = max((value, i, j) for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j)
    assert confusion.pairs.rows[0][2].sort == worst[0]
    percent = metric_tables.confusion(mask_sources.evaluation)
    assert [cell.text for cell in percent.rows[0]] == ["90.0", "10.0", "0"]
    assert [cell.text for cell in percent.rows[2]] == ["0", "0", "0"]


def test_the_confusion_matrix_of_boxes_has_a_background(mask_sources):
    evaluation = mask_sources.evaluation
    matrix = [[8, 1, 0, 1], [0, 5, 0, 3], [0, 0, 0, 0], [4, 0, 0, 0]]
    overall = evaluation.overall.model_copy(update={"confusion_matrix": matrix})
    confusion = metric_tables.confusion(evaluation.model_copy(update={"candidate": (overall,), "count_unit": "boxes"}))
    assert confusion.classes == (*evaluation.classes, "(background)")
    assert confusion.rows[0][3].title == f"{evaluation.classes[0]} predicted as (background): 1 boxes, 10.0%"
    assert texts(confusion.pairs)[0] == "(background)" and confusion.pairs.rows[0][2].sort == 4
    page = render(dataclasses.replace(mask_sources, evaluation=evaluation.model_copy(update={"candidate": (overall,)})))
    assert page.count("(background)") > 3


@pytest.mark.parametrize(
    ("num_classes", "pairs_first", "has_matrix"), [(2, False, True), (60, True, True), (130, True, False)]
)
def test_many_classes_show_the_pairs_first(sources_of, num_classes, pairs_first, has_matrix):
    sources = sources_of([f"class {index}" for index in range(num_classes)], count=60 + 4 * num_classes)
    confusion = metric_tables.confusion(sources.evaluation)
    assert (confusion.pairs_first, bool(confusion.rows)) == (pairs_first, has_matrix)
    assert len(confusion.pairs.rows) <= 20
    text = render(sources)
    assert ("Confusion matrix" in text) == has_matrix
    assert (confusion.omitted in text) if not has_matrix else True


def test_reliability_names_the_kind_of_error(sources_of):
    overall = sources_of().evaluation.overall
    bins = [b.model_copy(update={"accuracy": b.confidence - 0.2}) for b in overall.reliability if b.count]
    chart = metric_tables.reliability(overall.model_copy(update={"reliability": bins}))
    assert "overconfident" in chart.description and len(chart.lines[0].marks) == len(bins)
    assert metric_tables.reliability(overall.model_copy(update={"reliability": []})) is None


def test_every_metric_has_its_description_as_tooltip_and_definition(sources_of, mask_sources):
    for sources in (sources_of(with_baseline=True), mask_sources):
        document = Document(render(sources))
        titles = {attributes["title"] for _, attributes in document.tags if "title" in attributes}
        definitions = document.text[document.text.rindex("Metric definitions") :]
        for metric in sources.evaluation.metrics:
            assert metric.description in titles, metric.name
            assert metric.heading in definitions and metric.description in definitions, metric.name
            assert f"Undefined if {metric.undefined_when}." in definitions, metric.name


def test_a_new_metric_is_described_with_its_range(sources_of, kappa):
    evaluation = sources_of().evaluation
    overall = evaluation.overall
    candidate = overall.model_copy(update={"metrics": {**overall.metrics, kappa.name: -0.25}})
    extended = evaluation.model_copy(update={"candidate": [candidate], "metrics": (*evaluation.metrics, kappa)})
    (row,) = [row for row in metric_tables.metrics_table(extended).rows if row[0].text == "Cohen's kappa"]
    assert row[0].note == kappa.description and row[1].text == "-0.2500"
    assert kappa.description in html.unescape(render(sources_of(evaluation=extended)))


def test_long_tables_are_cut_and_mention_it(sources_of):
    table = gate_tables.thresholds_table([gate(slice=f"camera = {index}") for index in range(1000)], {})
    assert len(table.rows) == 300 and table.caption.endswith("the first 300 of 1,000")
    group = duplicate_group("exact", [f"{index}.png" for index in range(100)], "a")
    built = page.build(sources_of(duplicates=[group]))
    assert built.data.groups.rows[0][2].text.endswith("7.png and 92 more")


@pytest.mark.parametrize(
    ("skew", "sentence"),
    [
        ((), "The splits agree."),
        ((difference("moved"),), "The splits differ:"),
        (None, "was not checked"),
    ],
)
def test_the_page_has_one_sentence_about_skew(sources_of, skew, sentence):
    text = Document(render(sources_of(drift=DriftReport(previous_span=None, skew=skew)))).text
    assert sentence in text and all(str(line) in text for line in skew or ())
    assert text.count("The splits agree") + text.count("The splits differ") + text.count("was not checked") == 1


# === Charts ===


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.013, 0.0131), (-3.0, 7.0), (99.0, 12345.0), (1e-9, 2e-9)])
def test_ticks_are_round_and_enclose_the_range(low, high):
    values = charts.ticks(low, high)
    assert values[0] <= low + 1e-12 and values[-1] >= high - 1e-12 and 2 <= len(values) <= 8
    assert np.allclose(np.diff(values), values[1] - values[0])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (3e-4, 0.01, [1e-4, 1e-3, 1e-2]),
        (1e-5, 1e-3, [1e-5, 1e-4, 1e-3]),
        (0.001, 0.5, [1e-3, 1e-2, 1e-1, 1.0]),
        (1e-6, 1e-5, [1e-6, 1e-5]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_powers_of_ten(low, high, expected):
    assert charts.ticks(low, high, logarithmic=True) == expected


@pytest.mark.parametrize("values", [[0.001, 0.000125], [0.5, 1.0], [12345.0, 99.0]])
def test_the_left_margin_fits_the_labels(values):
    chart = charts.line_chart("k", "t", "d", x=[1, 2], curves={"a": values}, table=tables.Table("", [], []))
    longest = max(len(tick.label) for tick in chart.y_ticks)
    # A digit of a wide font has 8.3 pixels at the size of the labels, 13 pixels; 6 pixels separate them from the axis.
    assert 6 + 8.3 * longest < chart.left < 12 + 9 * longest


def test_a_curve_stays_inside_its_chart_and_is_interrupted_at_undefined_values(sources_of):
    built = page.build(sources_of())
    assert [chart.title for chart in built.training] == ["Loss", "Accuracy", "Learning rate"]
    for chart in built.training:
        for mark in [mark for line in chart.lines for mark in line.marks]:
            assert chart.left <= mark.x <= charts.WIDTH - charts.RIGHT
            assert charts.TOP <= mark.y <= charts.HEIGHT - charts.BOTTOM
        assert [tick.label for tick in chart.dividers] == ["fine-tuning"]
        assert len(chart.table.rows) == 6
    assert "the weights of epoch 5" in built.training_sentence
    last = page.build(dataclasses.replace(sources_of(), kept_epoch="last"))
    assert "the weights of the last epoch" in last.training_sentence
    table = tables.Table("", [], [])
    chart = charts.line_chart("k", "t", "d", x=[1, 2, 3, 4], curves={"a": [1.0, math.nan, 3.0, 4.0]}, table=table)
    assert len(chart.lines[0].parts) == 2 and len(chart.lines[0].marks) == 3


def test_thousands_of_epochs_are_a_line_and_the_table_names_the_file(sources_of):
    sources = sources_of()
    built = page.build(dataclasses.replace(sources, history=sources.history * 100))
    assert not built.training[0].lines[0].marks and built.training[0].lines[0].parts[0].count(",") == 600
    for table in (built.epochs, built.training[0].table):
        assert len(table.rows) == 300 and table.caption.endswith("; the first 300 of 600 (all: history.csv)")


def test_one_epoch_is_a_chart(sources_of):
    sources = sources_of()
    built = page.build(dataclasses.replace(sources, history=sources.history[:1]))
    assert [chart.title for chart in built.training] == ["Loss", "Accuracy"]
    assert "learning rate was constant at 0.01" in built.training_sentence


def test_the_second_chart_is_the_first_recorded_objective_besides_the_loss():
    history = [{"epoch": "0", "loss": "1.0", "val_loss": "1.0", "dice": "0.5", "val_dice": "0.4"}]
    objectives = tasks.get("segmentation").objectives
    charts_ = training_curves.curves(history, objectives, {"dice": "Dice coefficient"})
    assert [chart.title for chart in charts_] == ["Loss", "Dice coefficient"]


# === Masks ===


def test_masks_are_drawn_in_the_colours_of_the_legend():
    mask = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)
    predicted = np.array([[0, 0, 0], [1, 1, 1]], np.uint8)
    example = compare("a.png", np.full((2, 3, 1), 200, np.uint8), mask, predicted, ["sky", "road"], 255)
    panels = dict(example.panels)
    assert list(panels) == ["Image", "Ground truth", "Prediction", "Difference"]
    colors = [color for _, color in mask_drawing.legend(["sky", "road"], 255)]
    assert colors == [*mask_drawing.palette(2), mask_drawing.IGNORED_COLOR]
    expected = np.array(colors, np.uint8)
    assert np.array_equal(decode(panels["Ground truth"]), expected[np.where(mask == 255, 2, mask)])
    assert np.array_equal(decode(panels["Prediction"]), expected[predicted])
    wrong = (decode(panels["Difference"]) == mask_drawing.WRONG_COLOR).all(axis=-1)
    assert wrong.tolist() == [[False, True, False], [False, False, True]]
    assert example.score == pytest.approx(3 / 5)
    assert example.main_error.startswith("mostly sky predicted as road") and "33.3%" in panels["Difference"].alt
    assert panels["Ground truth"].alt == "Ground truth of a.png: road 50%, sky 33%"
    assert panels["Ground truth"].crisp
    assert worst_predictions._LINE.validate_json(worst_predictions._LINE.dump_json(example)) == example


def test_a_mask_over_an_image_leaves_the_background_and_shows_ignored_pixels_in_grey():
    mask = np.array([[0, 1, 255]], np.uint8)
    classes = ("background", "road")
    drawn = mask_drawing.draw(np.full((1, 3, 1), 200, np.uint8), mask, classes, 255)
    road, grey = (
        np.round(0.4 * 200 + 0.6 * np.array(color))
        for color in (mask_drawing.palette(2)[1], mask_drawing.IGNORED_COLOR)
    )
    assert drawn.tolist() == [[[200] * 3, road.tolist(), grey.tolist()]]
    assert [name for name, _ in mask_drawing.legend(classes, 255, [mask])] == ["road", "ignored"]
    assert [name for name, _ in mask_drawing.legend(classes, 255, [mask[:, :2]])] == ["road"]


def test_a_caption_names_the_class_or_the_largest_shares():
    drawing = tasks.get("classification").drawing
    classes = ("cat", "dog", "owl")
    assert drawing.caption(np.int64(1), classes) == ["dog"]
    assert drawing.caption(np.array([0.3, 0.0, 0.7]), classes) == ["owl: 70%", "cat: 30%"]
    assert drawing.caption(np.array([0.0, 1.0, 0.0]), classes) == ["dog: 100%"]
    assert drawing.draw(np.full((2, 2, 1), 7, np.uint8), np.int64(1), classes, None, 1).tolist() == [[[7] * 3] * 2] * 2
    assert drawing.comparison is None and drawing.legend(classes, None, None) == []


def decode(image):
    head, encoded = image.uri.split(",")
    assert head.startswith("data:image/")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as file:
        return np.asarray(file.convert("RGB"))


def test_every_class_has_a_colour_of_its_own():
    colors = mask_drawing.palette(40)
    assert len(set(colors)) == 40 and mask_drawing.palette(5) == colors[:5]
    assert mask_drawing.IGNORED_COLOR not in colors


def test_the_accuracy_of_ignored_pixels_is_undefined():
    ignored = np.full((2, 2), 255, np.uint8)
    assert math.isnan(mask_drawing.pixel_accuracy(ignored, np.zeros((2, 2), np.uint8), 255))


def test_large_images_are_reduced_and_drawings_keep_their_colours(rng):
    large = mask_drawing.color(rng.integers(0, 3, (800, 400), dtype=np.uint8), 3)
    drawing = images.embed_drawing(large, "")
    assert (drawing.width, drawing.height) == (192, 384) and not drawing.crisp
    assert {tuple(color) for color in decode(drawing).reshape(-1, 3)} == set(mask_drawing.palette(3))
    assert images.embed_photo(Image.fromarray(large), "").height == 384


def test_a_drawing_with_many_colours_is_encoded_as_a_photo(rng):
    pixels = np.asarray(noise(rng, 64))
    assert images.embed_drawing(pixels, "") == images.embed_photo(Image.fromarray(pixels), "")


# === The document ===


class Document(html.parser.HTMLParser):
    """Collects elements and text of a page."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        """Reads the whole page."""
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.hidden, self.visible = (
            [],
            [],
        )  # of each open element: whether it is hidden from screen readers; visible elements
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Stores the element, and that it is open."""
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)
            self.hidden.append(dict(attrs).get("aria-hidden") == "true")

    def handle_endtag(self, tag):
        """Checks that elements are closed in their order."""
        assert self.open and self.open.pop() == tag, f"{tag} is closed but not open"
        self.hidden.pop()

    def handle_startendtag(self, tag, attrs):
        """Stores an element, which may close itself."""
        self.tags.append((tag, dict(attrs)))
        if not any(self.hidden) and dict(attrs).get("aria-hidden") != "true":
            self.visible.append((tag, dict(attrs)))

    def handle_data(self, data):
        """Collects the text."""
        self.text += data

    def attributes(self, *tags):
        """Returns the attributes of all elements with some tags."""
        return [attributes for tag, attributes in self.tags if tag in tags]


@pytest.fixture(
    scope="module",
    params=["pushed", "refused", "baseline", "two classes", "no explanations", "masks", "boxes", "no history"],
)
def document(request, sources_of, mask_sources, box_sources):
    """A page, and its elements; its tests only read them."""
    variants = {
        "pushed": lambda: sources_of(),
        "refused": lambda: sources_of(
            blessed=False, pushed=None, gates=GateReport(has_baseline=False, results=[gate(passed=False)])
        ),
        "baseline": lambda: sources_of(with_baseline=True),
        "two classes": lambda: sources_of(("yes", "no")),
        "no explanations": lambda: sources_of(explained=False, incorrect=[], correct=[]),
        "masks": lambda: mask_sources,
        "boxes": lambda: box_sources,
        "no history": lambda: sources_of(history=[]),
    }
    text = render(variants[request.param]())
    return text, Document(text)


def test_the_page_is_well_formed_and_loads_nothing(document):
    text, parsed = document
    assert text.startswith("<!doctype html>") and not parsed.open
    references = [values[key] for _, values in parsed.tags for key in ("src", "href") if key in values]
    assert references and all(reference.startswith(("data:", "#")) for reference in references)
    assert "url(" not in text and "@import" not in text and "http" not in re.sub(r"http-equiv", "", text)
    assert len(text) < 5_000_000


def test_the_page_is_accessible(document):
    _, parsed = document
    ids = [values["id"] for _, values in parsed.tags if "id" in values]
    assert len(ids) == len(set(ids))
    for image in parsed.attributes("img"):
        assert image["alt"]
    # An SVG is hidden if the text beside it says the same; otherwise it is an image with a name.
    for drawing in [values for tag, values in parsed.visible if tag == "svg"]:
        names = drawing.get("aria-labelledby", "").split()
        assert drawing.get("role") == "img" and names and set(names) <= set(ids), drawing
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(parsed.attributes("caption")) == len(parsed.attributes("table"))
    assert all("scope" in header for header in parsed.attributes("th"))
    assert {link["href"][1:] for link in parsed.attributes("a") if link["href"].startswith("#")} <= set(ids)
    assert parsed.attributes("html")[0]["lang"] == "en"


def test_an_svg_without_a_name_is_detected():
    parsed = Document('<p aria-hidden="true"><svg></svg></p><svg aria-hidden="true"></svg><p><svg></svg></p>')
    assert len(parsed.attributes("svg")) == 3 and [tag for tag, _ in parsed.visible] == ["p", "svg"]


def noise(rng, side=600):
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture
def large_sources(sources_of, rng):
    """A long page: many classes, slices, thresholds and epochs, long names, images that do not compress."""
    path = "a long name & " * 14

    def make(num_classes, **replaced):
        names = [f"{index} {path}" for index in range(num_classes)]
        sources = sources_of(names, count=3 * num_classes, with_baseline=True)
        overall = sources.evaluation.overall
        rows = [overall, *(overall.model_copy(update={"name": f"camera = {index} {path}"}) for index in range(400))]
        image = images.embed_photo(noise(rng), path)
        example = ExplainedExample(f"{path}/1.png", names[0], names[1], 0.98, image, image)
        results = [
            gate(class_name=name, slice=row.name, passed=False) for name, row in zip(names, rows[1:], strict=False)
        ]
        values = {
            "evaluation": sources.evaluation.model_copy(update={"candidate": rows, "baseline": rows}),
            "gates": GateReport(has_baseline=True, results=results * 5),
            "incorrect": [example] * images.NUM_INCORRECT,
            "correct": [example] * images.NUM_CORRECT,
            "quarantined": [QuarantinedFile(path=path, reason=path)] * 50,
            "duplicates": [duplicate_group("near", [path] * 20, names[0])] * 50,
            "drift": DriftReport(previous_span=3, drift=(difference(path),) * 400, skew=(difference(path),) * 400),
            "history": sources.history * 500,
            "pushed": None,
            "blessed": False,
        }
        return dataclasses.replace(sources, **values | replaced)

    return make


@pytest.mark.parametrize("num_classes", [metric_tables.MAX_CLASSES_IN_MATRIX, 600])
def test_the_longest_page_of_classes_is_smaller_than_five_megabytes(large_sources, num_classes):
    text = render(large_sources(num_classes))
    assert text.count('src="data:image/') == 36 and "lower resolution" in text
    assert len(text.encode()) < 5_000_000
    assert ("Confusion matrix" in text) == (num_classes <= metric_tables.MAX_CLASSES_IN_MATRIX)


def test_the_longest_page_of_masks_is_smaller_than_five_megabytes(large_sources, mask_sources, rng):
    classes = [f"{index} {'a long name ' * 10}" for index in range(256)]
    mask, predicted = rng.integers(0, 256, (2, 600, 600), dtype=np.uint8)
    example = compare("a.png", np.asarray(noise(rng)), mask, predicted, classes)
    assert all(image.reduced and not image.crisp for _, image in example.panels[:3])
    overall = mask_sources.evaluation.overall
    evaluation = mask_sources.evaluation.model_copy(
        update={
            "classes": classes,
            "candidate": [
                overall.model_copy(
                    update={
                        "class_metrics": dict.fromkeys(classes, overall.class_metrics["sky"]),
                        "confusion_matrix": np.ones((256, 256), int).tolist(),
                    }
                )
            ],
        }
    )
    text = render(
        large_sources(
            120,
            evaluation=evaluation,
            explained=False,
            incorrect=[],
            correct=[],
            compared=[example] * images.NUM_COMPARED,
            legend=[(name, "#000000") for name in classes],
        )
    )
    assert text.count('src="data:image/') == 48 and "lower resolution" in text
    assert len(text.encode()) < 5_000_000


def test_images_are_reduced_only_if_they_exceed_their_share(rng):
    image = images.embed_photo(noise(rng), "")
    assert image.reduced and 64 < image.width == image.height < images.MAX_SIDE
    assert len(base64.b64decode(image.uri.split(",")[1])) <= images.MAX_BYTES
    gradient = np.linspace(0, 255, 600 * 600 * 3, dtype=np.uint8).reshape(600, 600, 3)
    plain = images.embed_photo(Image.fromarray(gradient), "")
    assert (plain.width, plain.reduced) == (images.MAX_SIDE, False)


def test_many_classes_are_cut_to_the_weakest_and_the_caption_names_the_file(sources_of):
    sources = sources_of([f"class {index}" for index in range(400)], count=4000)
    table = metric_tables.class_table(sources.evaluation, [])
    weakest = sorted(values["f1"] for values in sources.evaluation.overall.class_metrics.values())[:300]
    assert [row[1].sort for row in table.rows] == weakest
    assert table.caption == "Classes, the weakest first; the first 300 of 400 (all: evaluation.json)"
    counted = page.build(sources).data.classes
    assert [row[-1].sort for row in counted.rows] == [3 * (10 + index) for index in range(300)]
    assert counted.caption == "Images by class, the rarest first; the first 300 of 400 (all: summary.json)"


@pytest.mark.parametrize(("num_classes", "has_tooltips"), [(40, True), (41, False)])
def test_cells_of_a_matrix_have_tooltips_up_to_forty_classes(sources_of, num_classes, has_tooltips):
    sources = sources_of([f"class {index}" for index in range(num_classes)], count=400)
    cells = [cell for row in metric_tables.confusion(sources.evaluation).rows for cell in row]
    assert len(cells) == num_classes**2 and {bool(cell.title) for cell in cells} == {has_tooltips}
    assert (' title="class 1 predicted as class 2: ' in render(sources)) == has_tooltips


def test_undefined_values_are_not_shown_as_nan(document):
    text, parsed = document
    assert not re.search(r"\bnan\b", parsed.text) and 'data-v="nan"' not in text and "None" not in parsed.text


def test_the_policy_allows_only_the_script_of_the_page(document):
    text, parsed = document
    assert len(parsed.attributes("script")) == 1
    body = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    (policy,) = [
        meta["content"] for meta in parsed.attributes("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")


def test_names_are_escaped_everywhere(sources_of, mask_sources, rng):
    sources = sources_of(
        (NASTY, "dog", '" onmouseover="alert(1)'),
        name=NASTY,
        quarantined=[QuarantinedFile(path=NASTY_FILE, reason=NASTY)],
        duplicates=[duplicate_group("near", [NASTY_FILE], NASTY)],
        drift=DriftReport(previous_span=3, drift=(difference(NASTY),), skew=(difference(NASTY),)),
        gates=GateReport(has_baseline=False, results=[gate(class_name=NASTY, slice=f"camera = {NASTY}", passed=False)]),
        blessed=False,
        pushed=None,
        checks=[ServingCheck(name=NASTY, passed=False, detail=NASTY_FILE)],
        lineage=[(NASTY, NASTY)],
        configuration=f'[pipeline]\nname = "{NASTY}"\n',
    )
    pixels, ids = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.zeros((8, 8), np.uint8)
    compared = compare(NASTY_FILE, pixels, ids, ids + 1, [NASTY, "b"])
    image = images.embed_photo(Image.fromarray(pixels), NASTY_FILE)
    sources = dataclasses.replace(sources, incorrect=[ExplainedExample(NASTY_FILE, NASTY, "dog", 0.9, image, image)])
    with_masks = dataclasses.replace(mask_sources, compared=[compared], legend=[(NASTY, "#000000")])
    for text in (render(sources), render(with_masks)):
        parsed = Document(text)
        assert len(parsed.attributes("script")) == 1 and not [
            image for image in parsed.attributes("img") if image["src"] == "x"
        ]
        assert not [values for _, values in parsed.tags if any(key.startswith("on") for key in values)]
        assert NASTY in parsed.text and NASTY_FILE in parsed.text


def test_the_configuration_on_the_page_gives_the_same_pipeline(sources_of, tmp_path):
    overrides = ["tuner.enabled=true", "evaluation.slices=['a \"b\"']"]
    loaded = loading.with_absolute_paths(loading.load("clothing", data=str(tmp_path), overrides=overrides))
    parsed = Document(render(sources_of(configuration=loading.as_toml(loaded))))
    (link,) = [link for link in parsed.attributes("a") if link.get("download") == "model.toml"]
    saved = tmp_path / "model.toml"
    saved.write_bytes(base64.b64decode(link["href"].split(",")[1]))
    assert loading.load(str(saved)) == loaded
    assert saved.read_text() in parsed.text


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        (
            [
                "model.name=transfer",
                "transform.normalization=backbone",
                "model.backbone=resnet50",
                "model.weights=nets/a.weights.h5",
            ],
            "weights",
        ),
        (
            [
                "model.name=unet",
                "transform.normalization=backbone",
                "model.encoder=resnet50",
                "model.encoder_weights=~/a.h5",
            ],
            "encoder_weights",
        ),
    ],
)
def test_a_saved_configuration_finds_its_files_from_any_folder(tmp_path, monkeypatch, model, weights):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = [
        "pipeline.root=../runs",
        "data.path=../pets/{SPAN}",
        "data.metadata_csv=meta.csv",
        "serving.base_directory=served",
        *model,
    ]
    loaded = loading.load("images", overrides=overrides)
    (elsewhere / "model.toml").write_text(loading.as_toml(loading.with_absolute_paths(loaded)))
    places = (loaded.run_dir, loaded.model_base_path, loaded.data_location, loaded.data.options())
    monkeypatch.chdir(elsewhere)
    saved = loading.load("model.toml")
    assert (saved.run_dir, saved.model_base_path, saved.data_location, saved.data.options()) == places
    assert saved.run_dir == here / ".." / "runs" / "images" and saved.data_location == f"{tmp_path}/pets/{{SPAN}}"
    expected = {"weights": here / "nets" / "a.weights.h5", "encoder_weights": tmp_path / "a.h5"}[weights]
    assert getattr(saved.model, weights) == str(expected)
    assert saved.data.metadata_csv == str(here / "meta.csv")


def test_values_other_than_local_paths_are_unchanged():
    overrides = ["pipeline.root=/runs", "data.path=gs://bucket/pets", "model.weights=imagenet"]
    loaded = loading.load("clothing", overrides=overrides)
    assert loading.with_absolute_paths(loaded) == loaded
    generated = loading.with_absolute_paths(loading.load("digits"))
    assert generated.data.path is None and generated.serving.base_directory is None


@pytest.mark.parametrize("name", loading.preset_names())
def test_a_configuration_as_toml_is_the_same_configuration(name, tmp_path):
    loaded = loading.load(name, needs_data=False)
    path = tmp_path / "model.toml"
    path.write_text(loading.as_toml(loaded))
    assert loading.load(str(path), needs_data=False) == loaded
    assert tomllib.loads(path.read_text())["training"]["epochs"] == loaded.training.epochs


# === Colours ===


def color_schemes():
    """Reads the variables of the style sheet: light ones, and dark ones over light ones."""
    light, dark = (
        {
            name: tuple(int(value[i : i + 2], 16) for i in (1, 3, 5))
            for name, value in re.findall(r"--([\w-]+): (#\w{6});", block)
        }
        for block in re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    )
    return {"light": light, "dark": light | dark}


def contrast(one, other):
    """Computes the contrast of two colours, in [1, 21].

    Reference: W3C, Web Content Accessibility Guidelines 2.2, 2023, definition of contrast ratio.
    """

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in color)]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme):
    colors = color_schemes()[scheme]
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    text = [
        (name, behind) for name in ("ink", "soft", "accent", "good", "bad") for behind in ("paper", "card", "sunken")
    ]
    text += [("ink", "good-card"), ("good", "good-card"), ("ink", "bad-card"), ("bad", "bad-card")]
    for name, behind in text:
        assert contrast(colors[name], colors[behind]) >= 4.5, (name, behind)
    for name in ("curve-1", "curve-2", "curve-3"):
        assert contrast(colors[name], colors["card"]) >= 3, name
    css = STYLE.read_text()
    for name in ("hit", "miss"):
        most = int(re.search(rf"var\(--{name}\) calc\(var\(--s\) \* (\d+)%\)", css)[1]) / 100
        for share in (0.25, 0.5, 1.0):
            mixed = [
                most * share * a + (1 - most * share) * b for a, b in zip(colors[name], colors["card"], strict=True)
            ]
            assert contrast(colors["ink"], mixed) >= 4.5, (name, share)


# How complete protanopia, deuteranopia, tritanopia and none of them change linear red, green and blue.
# Reference: G. Machado, M. Oliveira & L. Fernandes, A Physiologically-based Model for Simulation of Color Vision
# Deficiency, IEEE Trans. Visualization and Computer Graphics 15(6), 2009, supplementary table, severity 1.0.
VISION = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3).tolist(),
}


def seen_difference(one, other, vision):
    """Computes the distance of two colours in CIELAB as seen with a colour vision; about 2.3 is just noticeable.

    Reference: CIE 15:2018, Colorimetry (colour difference of 1976); G. Sharma, Digital Color Imaging Handbook, CRC,
      2003 (2.3).
    """

    def lab(color):
        share = np.array(color) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        seen = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
        to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        xyz = to_xyz @ seen / to_xyz.sum(axis=1)
        root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
        return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])

    return np.linalg.norm(lab(one) - lab(other))


@pytest.mark.parametrize("vision", VISION)
def test_mask_colours_differ_for_colour_blind_people(vision):
    for one, other in itertools.combinations(mask_drawing.palette(7), 2):
        assert seen_difference(one, other, vision) > 15, (one, other)
    for one, other in itertools.combinations(mask_drawing.palette(12), 2):
        assert seen_difference(one, other, vision) > 10, (one, other)


def test_red_and_green_are_too_similar():
    red, green = (200, 80, 80), (80, 150, 80)
    assert seen_difference(red, green, "none") > 50 > 15 > seen_difference(red, green, "deuteranopia")


# === In a browser ===


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page in Chromium."""
    contexts = []

    def open_one(text, width=1280, height=900, scheme="light"):
        path = tmp_path / "report.html"
        path.write_text(text)
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.goto(path.as_uri())
        return page

    yield open_one
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_only_tables_scroll_sideways(sources_of, show, width):
    long = "a-very-long-name-without-any-space-" * 4
    sources = sources_of(
        [long, *(f"class {i}" for i in range(59))],
        count=400,
        with_baseline=True,
        pushed=Push("1", f"/{long}/{long}"),
        quarantined=[QuarantinedFile(path=f"{long}.png", reason=long)],
        lineage=[("Model", f"/{long}{long}")],
    )
    result = show(render(sources), width).evaluate(
        "() => [document.documentElement.clientWidth, document.documentElement.scrollWidth, "
        "[...document.querySelectorAll('.scroll')].some((box) => box.scrollWidth > box.clientWidth)]"
    )
    assert result == [width, width, True]


def test_a_click_sorts_and_announces_it(sources_of, show):
    (up, down, names), focused = show(render(sources_of(("a", "b", "c", "d")))).evaluate(
        """() => {
          const table = document.querySelector("#classes table");
          const column = (index) => [...table.tBodies[0].rows].map((row) => row.cells[index].textContent);
          const buttons = table.querySelectorAll("thead button");
          const results = [];
          for (const index of [5, 5, 0]) {
            buttons[index].click();
            results.push([column(index), table.tHead.rows[0].cells[index].getAttribute("aria-sort"),
                       table.querySelectorAll("[aria-sort]").length, document.getElementById("status").textContent]);
          }
          buttons[0].focus();
          return [results, document.activeElement === buttons[0]];
        }"""
    )
    numbers = [int(value) for value in up[0]]
    assert numbers == sorted(numbers) and up[1:] == ["ascending", 1, "Sorted by Support, ascending"]
    assert [int(value) for value in down[0]] == numbers[::-1] and down[1] == "descending"
    assert names[0] == ["a", "b", "c", "d"] and focused


def test_undefined_values_are_sorted_last_in_both_directions(mask_sources, show):
    result = show(render(mask_sources)).evaluate(
        """() => {
          const table = document.querySelector("#classes table");
          const button = table.querySelectorAll("thead button")[1];
          const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
          return [1, 2].map(() => { button.click(); return names(); });
        }"""
    )
    assert result == [["sky", "road", "car"], ["road", "sky", "car"]]


def test_details_are_open_in_print_and_closed_again(sources_of, show):
    result = show(render(sources_of())).evaluate(
        """() => {
          const closed = () => document.querySelectorAll("details:not([open])").length;
          const counts = [closed()];
          for (const name of ["beforeprint", "afterprint"]) { dispatchEvent(new Event(name)); counts.push(closed()); }
          return counts;
        }"""
    )
    assert result[0] > 3 and result == [result[0], 0, result[0]]


def test_the_script_of_the_page_runs_and_an_injected_one_does_not(sources_of, show):
    injected = "<script>document.title = 'taken over'</script>"
    page = show(render(sources_of()).replace("<main>", f"<main>{injected}"))
    assert injected in page.content()
    assert page.title() == "pets: Pushed as version 1795346754"
    assert '<button type="button">' in page.content()


@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [(390, 844, "light"), (1280, 900, "light"), (1280, 900, "dark")],
    ids=["phone", "desktop", "dark"],
)
def test_a_screenshot_has_the_colours_of_its_scheme(sources_of, show, width, height, scheme):
    shot = show(render(sources_of()), width, height, scheme).screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
    assert pixels.shape[:2] == (height, width)
    colors = color_schemes()[scheme]
    for color in ("paper", "good-card"):
        assert (pixels == colors[color]).all(axis=-1).mean() > 0.05, color


def test_suspicious_labels_are_shown_with_their_images(sources_of):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "PNG")
    summary = AuditSummary(
        images=330,
        source="the trained network",
        reasons={"label issue": 2},
        agreement=0.9,
        ambiguous=(AmbiguousPair(classes=("cat", "dog"), images=4, share=0.02),),
    )
    suspects = tuple(
        Suspect(filename=name, label="cat", reason="label issue", score=score, proposed_label="dog")
        for name, score in ((NASTY_FILE, 0.99), ("second.png", 0.9))
    )
    suspects += (Suspect(filename="second.png", label="cat", reason="outlier", score=0.5),)
    suspects += tuple(Suspect(filename=f"{n}.png", label="cat", reason="outlier", score=0.1) for n in range(20))
    audited = Document(render(sources_of(audit=Audit(summary, suspects, {NASTY_FILE: buffer.getvalue()}))))
    assert "Labels to review" in audited.text and "agrees with 90.0% of the labels" in audited.text
    assert "proposed dog" in audited.text and NASTY_FILE in audited.text and "cat and dog" in audited.text
    assert f"{NASTY_FILE}, label cat" in [image["alt"] for image in audited.attributes("img")]
    # Every image has one card, with all its reasons.
    assert audited.text.count("second.png") == 1 and "label issue, outlier, 0.9000" in audited.text
    assert "9.png" in audited.text and "10.png" not in audited.text  # twelve cards
    assert "Labels to review" not in Document(render(sources_of())).text
