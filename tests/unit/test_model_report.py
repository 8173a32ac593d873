"""The report: what it says of figures, and that the page is whole, safe and readable. No TFX is needed."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import html
import html.parser
import io
import itertools
import json
import math
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.evaluator.artifact import EvaluationResult, GateReport, GateResult, SliceMetrics
from components.image_example_gen.artifact import (
    DuplicateCounts,
    DuplicateGroup,
    DuplicateImage,
    QuarantinedFile,
    SplitCounts,
    Summary,
)
from components.model_report import charts, figure_tables, masks, page, pictures, rendering, tables, verdict
from components.model_report.sources import Explained, Push, Sizes, Sources
from pipeline.config import loading
from trainer_module import tasks
from trainer_module.features import SPLITS

NASTY = "<script>alert(1)</script>"
NASTY_FILE = "\"'><img src=x onerror=alert(1)>/a.png"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STYLE = Path(rendering.__file__).parent / "templates" / "style.css.j2"


def gate(**values):
    said = {
        "setting": "evaluation.thresholds",
        "metric": "accuracy",
        "slice": "all",
        "value": 0.9,
        "bound": 0.85,
        "higher_is_better": True,
        "examples": 200,
        "passed": True,
        "detail": "0.9000; must be at least 0.85",
    }
    titles = {metric.name: metric.title for metric in tasks.get("classification").evaluation.metrics(3)}
    return GateResult(**{"title": titles[(said | values)["metric"]]} | said | values)


def duplicate_group(kind, paths, name):
    images = [DuplicateImage(path=path, classes=(name,), split="train") for path in paths]
    return DuplicateGroup(kind=kind, images=tuple(images))


@pytest.fixture
def sources_of(evaluation_of, rng):
    """Makes a whole run of a classifier: class names → Sources, with any field replaced."""

    def make(classes=("cat", "dog", "owl"), *, count=200, with_baseline=False, **replaced):
        labels = rng.integers(0, len(classes), count)
        logits = rng.normal(0, 1, (count, len(classes))) + 3.0 * np.eye(len(classes))[labels]
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        slices = {"brightness = dark": rng.random(count) < 0.3, "camera = b": rng.random(count) < 0.1}
        worse = np.full_like(shares, 1 / len(classes)) * 0.5 + shares * 0.5 if with_baseline else None
        names = list(classes)
        counts = {name: 10 + index for index, name in enumerate(names)}
        picture = pictures.photograph(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), "a picture")
        decision = Explained(f"{names[0]}/1.png", names[0], names[1], 0.98, picture, picture)
        said = {
            "name": "pets",
            "evaluation": evaluation_of(names, labels, shares, slices, worse),
            "gates": GateReport(has_baseline=with_baseline, results=[gate()]),
            "blessed": True,
            "checks": [{"name": "loads in a session", "passed": True, "detail": "signatures: examples"}],
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
            "sizes": [Sizes("train", (20.0, 200.0, 640.0), (20.0, 100.0, 480.0), {"JPEG": 100, "PNG": 10})],
            "quarantined": [QuarantinedFile(path=f"{names[0]}/bad.png", reason="not a JPEG, PNG or GIF file")],
            "duplicates": [duplicate_group("exact", ["a.png", "b.png"], names[0])],
            "drift": {"previous_span": None, "found": [], "skew": []},
            "explained": True,
            "mistakes": [decision],
            "scale": ["rgb(0, 0, 128)", "rgb(128, 0, 0)"],
            "right": [dataclasses.replace(decision, predicted=names[0])],
            "lineage": [("Code", "0123456789abcdef"), ("Data fingerprint", "ab" * 32)],
            "versions": [("tfx", "1.21.0")],
            "configuration": loading.as_toml(loading.load("digits")),
            "created": datetime.datetime(2026, 11, 22, 10, 0, tzinfo=datetime.UTC),
        }
        return Sources(**said | replaced)

    return make


@pytest.fixture
def mask_sources(sources_of, rng):
    """A run of a network for masks."""
    classes = ["sky", "road", "car"]
    comparisons = []
    for index in range(2):
        truth = rng.integers(0, 3, (24, 24), dtype=np.uint8)
        truth[:, :2] = 255
        predicted = truth.copy()
        predicted[0, 2:] = (truth[0, 2:] + 1) % 3
        pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        comparisons.append(masks.compare(f"street/{index}.png", pixels, truth, predicted, classes, 255))
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
        evaluation=EvaluationResult(
            task="segmentation",
            split="test",
            classes=classes,
            count_unit="pixels",
            metrics=tasks.get("segmentation").evaluation.metrics(3),
            candidate=[overall],
        ),
        explained=False,
        mistakes=[],
        right=[],
        comparisons=comparisons,
        legend=[("sky", "#0072b2"), ("road", "#e69f00"), ("car", "#009e73"), ("does not count", "#808080")],
        history=[],
    )


def render(sources):
    return rendering.render(page.build(sources))


def texts(table, column=0):
    return [row[column].text for row in table.rows]


# --- The verdict ------------------------------------------------------------------------------------------------


def test_a_pushed_model_says_where_it_went(sources_of):
    found = verdict.judge(sources_of())
    assert found.pushed and found.headline == "Pushed as version 1795346754" and not found.reasons
    assert "/models/pets/1795346754" in found.sentence
    assert "no blessed model to compare with" in found.against


def test_a_refused_model_says_by_whom_and_why(sources_of):
    gates = GateReport(
        has_baseline=True,
        results=[
            gate(metric="recall", class_name="owl", value=0.5, bound=0.8, passed=False, detail="0.5; must be 0.8"),
            gate(metric="cross_entropy", value=0.9, bound=0.5, higher_is_better=False, passed=False, detail="0.9"),
            gate(slice="camera = b", passed=None, detail="12 examples are too few"),
            gate(),
        ],
    )
    checks = [{"name": "explain answers", "passed": False, "detail": "heatmap is not finite"}]
    found = verdict.judge(
        sources_of(
            gates=gates,
            blessed=False,
            checks=checks,
            servable=False,
            pushed=None,
            baseline="artifact 3",
            with_baseline=True,
        )
    )
    assert not found.pushed and found.headline == "Refused by Evaluator and ServingValidator"
    assert "artifact 3" in found.against
    assert [(reason.gate, reason.subject, reason.text) for reason in found.reasons] == [
        ("Evaluator", "Cross-entropy", "0.9 (missed by 0.4000)"),
        ("Evaluator", "Recall of class owl", "0.5; must be 0.8 (missed by 0.3000)"),
        ("ServingValidator", "explain answers", "heatmap is not finite"),
    ]
    assert ("Rules kept", "1 of 3") in [(fact.label, fact.value) for fact in found.facts]


def test_a_model_that_nothing_was_held_against_is_refused_with_a_reason(sources_of):
    found = verdict.judge(sources_of(gates=GateReport(has_baseline=False, results=[]), blessed=False, pushed=None))
    assert found.headline == "Refused by Evaluator" and "held against anything" in found.reasons[0].text


def test_explanations_that_are_not_faithful_refuse_too(sources_of):
    found = verdict.judge(sources_of(unfaithful=["insertion_auc is 0.2000; it must be at least 0.5"], pushed=None))
    assert (found.pushed, found.headline) == (False, "Refused by GradCam")
    (reason,) = found.reasons
    assert reason.gate == "GradCam" and "at least 0.5" in reason.text


def test_a_figure_that_could_not_be_computed_is_a_reason_in_its_own_words(sources_of):
    gates = GateReport(has_baseline=False, results=[gate(value=None, passed=False, detail="no example of this class")])
    found = verdict.judge(sources_of(gates=gates, blessed=False, pushed=None))
    assert found.reasons[0].text == "no example of this class"


def test_broken_rules_come_first_and_kept_ones_by_their_margin():
    rules = [gate(value=0.99), gate(value=0.86), gate(passed=None, value=0.1), gate(value=0.8, passed=False)]
    rules.append(gate(value=0.2, passed=False))
    found = verdict.rules_table(rules)
    assert texts(found, 3) == ["0.2000", "0.8000", "0.1000", "0.8600", "0.9900"]
    assert [text.split()[0] for text in texts(found, 2)] == ["✗", "✗", "·", "✓", "✓"]


# --- Figures ----------------------------------------------------------------------------------------------------


def test_a_change_is_good_or_bad_by_the_side_on_which_a_good_model_lies(sources_of):
    evaluation = sources_of().evaluation
    values = {"accuracy": 0.5, "cross_entropy": 0.5, "macro_f1": 0.5}
    baseline = evaluation.overall.model_copy(update={"metrics": values})
    candidate = evaluation.overall.model_copy(update={"metrics": values | {"accuracy": 0.6, "cross_entropy": 0.6}})
    metrics = [metric for metric in evaluation.metrics if metric.name in values]
    changed = {"candidate": [candidate], "baseline": [baseline], "metrics": metrics}
    rows = figure_tables.metrics_table(evaluation.model_copy(update=changed)).rows
    assert {row[0].text: (row[-1].text, row[-1].note) for row in rows} == {
        "Accuracy": ("+0.1000", "better"),
        "Cross-entropy": ("+0.1000", "worse"),
        "Macro F1": ("±0.0000", "the same"),
    }


def test_a_new_metric_is_described_with_its_range(sources_of, kappa):
    evaluation = sources_of().evaluation
    overall = evaluation.overall
    candidate = overall.model_copy(update={"metrics": {**overall.metrics, kappa.name: -0.25}})
    extended = evaluation.model_copy(update={"candidate": [candidate], "metrics": (*evaluation.metrics, kappa)})
    (row,) = [row for row in figure_tables.metrics_table(extended).rows if row[0].text == "Cohen's kappa"]
    assert row[0].note == kappa.description and row[1].text == "-0.2500"
    assert kappa.description in html.unescape(render(sources_of(evaluation=extended)))


def test_classes_and_slices_stand_worst_first(sources_of):
    evaluation = sources_of(("a", "b", "c", "d")).evaluation
    found = figure_tables.class_table(evaluation, [])
    scores = [row[1].sort for row in found.rows]
    assert scores == sorted(scores) and found.columns[1].name == "F1"
    found = figure_tables.slice_table(evaluation, [gate(slice="camera = b", passed=False)])
    scores = [row[1].sort for row in found.rows]
    assert scores == sorted(scores) and texts(found) != [] and found.pinned[0][0].text == "all examples"
    assert [row[0].note for row in found.rows if row[0].text == "camera = b"] == ["1 rule broken"]


def test_a_class_without_examples_stands_last_and_has_no_figure(mask_sources):
    found = figure_tables.class_table(mask_sources.evaluation, [])
    assert texts(found) == ["road", "sky", "car"]
    assert found.rows[-1][1].text == tables.NO_VALUE and math.isnan(found.rows[-1][1].sort)


def test_the_matrix_is_that_of_the_figures(sources_of, mask_sources):
    evaluation = sources_of().evaluation
    found = figure_tables.confusion(evaluation)
    assert [[int(cell.text) for cell in row] for row in found.rows] == evaluation.overall.confusion_matrix
    assert all(cell.right == (i == j) for i, row in enumerate(found.rows) for j, cell in enumerate(row))
    worst = max(
        (value, i, j)
        for i, row in enumerate(evaluation.overall.confusion_matrix)
        for j, value in enumerate(row)
        if i != j
    )
    assert found.pairs.rows[0][2].sort == worst[0]
    percent = figure_tables.confusion(mask_sources.evaluation)
    assert [cell.text for cell in percent.rows[0]] == ["90.0", "10.0", "0"]
    assert [cell.text for cell in percent.rows[2]] == ["0", "0", "0"]


@pytest.mark.parametrize(
    ("num_classes", "pairs_first", "has_matrix"), [(2, False, True), (60, True, True), (130, True, False)]
)
def test_many_classes_show_the_pairs_first(sources_of, num_classes, pairs_first, has_matrix):
    sources = sources_of([f"class {index}" for index in range(num_classes)], count=60 + 4 * num_classes)
    found = figure_tables.confusion(sources.evaluation)
    assert (found.pairs_first, bool(found.rows)) == (pairs_first, has_matrix)
    assert len(found.pairs.rows) <= 20
    text = render(sources)
    assert ("Confusion matrix" in text) == has_matrix
    assert (found.left_out in text) if not has_matrix else True


def test_reliability_says_which_way_a_model_errs(sources_of):
    overall = sources_of().evaluation.overall
    bins = [b.model_copy(update={"accuracy": b.confidence - 0.2}) for b in overall.reliability if b.count]
    found = figure_tables.reliability(overall.model_copy(update={"reliability": bins}))
    assert "overconfident" in found.description and len(found.lines[0].marks) == len(bins)
    assert figure_tables.reliability(overall.model_copy(update={"reliability": []})) is None


def test_long_tables_are_cut_and_say_so(sources_of):
    found = verdict.rules_table([gate(slice=f"camera = {index}") for index in range(1000)])
    assert len(found.rows) == 300 and found.caption.endswith("the first 300 of 1,000")
    group = duplicate_group("exact", [f"{index}.png" for index in range(100)], "a")
    built = page.build(sources_of(duplicates=[group]))
    assert built.data.groups.rows[0][2].text.endswith("7.png and 92 more")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"skew": []}, "The splits agree."),
        ({"skew": ["test split, image/mean/luma: moved"]}, "The splits differ:"),
        ({"skew": None}, "not looked for"),
        ({}, "not looked for"),  # as a version before skew left it
    ],
)
def test_whether_the_splits_differ_is_always_told(sources_of, said, sentence):
    text = Document(render(sources_of(drift={"previous_span": None, "found": []} | said))).text
    assert sentence in text and all(line in text for line in said.get("skew") or ())
    assert text.count("The splits agree") + text.count("The splits differ") + text.count("not looked for") == 1


def test_what_a_rules_figure_is_of_is_said_in_one_way():
    said = [gate(), gate(metric="macro_f1", slice="camera = b"), gate(class_name="owl", slice="camera = b")]
    assert [(rule.applies_to, rule.subject) for rule in said] == [
        ("all", "accuracy"),
        ("camera = b", "macro F1 of camera = b"),
        ("class owl, camera = b", "accuracy of class owl, camera = b"),
    ]


# --- Charts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.013, 0.0131), (-3.0, 7.0), (99.0, 12345.0), (1e-9, 2e-9)])
def test_steps_are_round_and_enclose_the_range(low, high):
    found = charts.round_steps(low, high)
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12 and 2 <= len(found) <= 8
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_a_curve_keeps_to_the_paper_and_is_interrupted_where_there_is_no_figure(sources_of):
    built = page.build(sources_of())
    assert [chart.title for chart in built.training] == ["Loss", "Accuracy", "Learning rate"]
    for chart in built.training:
        for mark in [mark for line in chart.lines for mark in line.marks]:
            assert charts.LEFT <= mark.x <= charts.WIDTH - charts.RIGHT
            assert charts.TOP <= mark.y <= charts.HEIGHT - charts.BOTTOM
        assert [tick.label for tick in chart.dividers] == ["fine-tuning"]
        assert len(chart.table.rows) == 6
    assert "the weights are those of epoch 5" in built.training_sentence
    table = tables.Table("", [], [])
    chart = charts.line_chart("k", "t", "d", x=[1, 2, 3, 4], curves={"a": [1.0, math.nan, 3.0, 4.0]}, table=table)
    assert len(chart.lines[0].parts) == 2 and len(chart.lines[0].marks) == 3


def test_thousands_of_epochs_are_a_line_and_the_table_says_where_all_are(sources_of):
    sources = sources_of()
    built = page.build(dataclasses.replace(sources, history=sources.history * 100))
    assert not built.training[0].lines[0].marks and built.training[0].lines[0].parts[0].count(",") == 600
    for table in (built.epochs, built.training[0].table):
        assert len(table.rows) == 300 and table.caption.endswith("; the first 300 of 600 (history.csv has all)")


def test_one_epoch_is_a_chart_too(sources_of):
    sources = sources_of()
    built = page.build(dataclasses.replace(sources, history=sources.history[:1]))
    assert [chart.title for chart in built.training] == ["Loss", "Accuracy"]
    assert "learning rate was 0.01 throughout" in built.training_sentence


# --- Masks ------------------------------------------------------------------------------------------------------


def test_masks_are_drawn_in_the_colours_of_the_legend():
    truth = np.array([[0, 1, 255], [1, 1, 0]], np.uint8)
    predicted = np.array([[0, 0, 0], [1, 1, 1]], np.uint8)
    found = masks.compare("a.png", np.full((2, 3, 1), 200, np.uint8), truth, predicted, ["sky", "road"], 255)
    colors = [*masks.palette(2), masks.IGNORED_COLOR]
    assert np.array_equal(decode(found.truth), np.array(colors, np.uint8)[np.where(truth == 255, 2, truth)])
    assert np.array_equal(decode(found.predicted), np.array(colors, np.uint8)[predicted])
    wrong = (decode(found.difference) == masks.WRONG_COLOR).all(axis=-1)
    assert wrong.tolist() == [[False, True, False], [False, False, True]]
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.confusion.startswith("mostly sky taken for road") and "33.3%" in found.difference.alt
    assert found.truth.alt == "The mask of the data for a.png: road 50%, sky 33%"
    assert found.truth.crisp
    assert masks.from_json(json.loads(json.dumps(masks.to_json(found)))) == found


def decode(picture):
    head, encoded = picture.uri.split(",")
    assert head.startswith("data:image/")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        return np.asarray(image.convert("RGB"))


def test_every_class_has_a_colour_of_its_own():
    found = masks.palette(40)
    assert len(set(found)) == 40 and masks.palette(5) == found[:5]
    assert masks.IGNORED_COLOR not in found


def test_a_picture_in_which_no_pixel_counts_has_no_accuracy():
    ignored = np.full((2, 2), 255, np.uint8)
    assert math.isnan(masks.pixel_accuracy(ignored, np.zeros((2, 2), np.uint8), 255))


def test_large_pictures_are_made_smaller_and_drawings_keep_their_colours(rng):
    large = Image.fromarray(rng.integers(0, 3, (800, 400), dtype=np.uint8))
    large.putpalette([channel for color in masks.palette(3) for channel in color])
    found = pictures.drawing(large, "")
    assert (found.width, found.height) == (192, 384) and not found.crisp
    assert {tuple(color) for color in decode(found).reshape(-1, 3)} == set(masks.palette(3))
    assert pictures.photograph(large, "").height == 384


# --- The document -----------------------------------------------------------------------------------------------


class Document(html.parser.HTMLParser):
    """Collects what the tests ask of a page."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        """Reads the whole page."""
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.hidden, self.told = [], []  # what is open and hidden from screen readers; what is not
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Notes the element, and that it is open."""
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)
            self.hidden.append(dict(attrs).get("aria-hidden") == "true")

    def handle_endtag(self, tag):
        """Insists that elements are closed in their order."""
        assert self.open and self.open.pop() == tag, f"{tag} closes what is not open"
        self.hidden.pop()

    def handle_startendtag(self, tag, attrs):
        """Notes an element, which may close itself."""
        self.tags.append((tag, dict(attrs)))
        if not any(self.hidden) and dict(attrs).get("aria-hidden") != "true":
            self.told.append((tag, dict(attrs)))

    def handle_data(self, data):
        """Collects the text."""
        self.text += data

    def of(self, *tags):
        """The attributes of all elements of some kinds."""
        return [attributes for tag, attributes in self.tags if tag in tags]


@pytest.fixture(params=["pushed", "refused", "baseline", "two classes", "no explanations", "masks", "no history"])
def document(request, sources_of, mask_sources):
    made = {
        "pushed": lambda: sources_of(),
        "refused": lambda: sources_of(
            blessed=False, pushed=None, gates=GateReport(has_baseline=False, results=[gate(passed=False)])
        ),
        "baseline": lambda: sources_of(with_baseline=True),
        "two classes": lambda: sources_of(("yes", "no")),
        "no explanations": lambda: sources_of(explained=False, mistakes=[], right=[]),
        "masks": lambda: mask_sources,
        "no history": lambda: sources_of(history=[]),
    }
    text = render(made[request.param]())
    return text, Document(text)


def test_the_page_is_well_formed_and_needs_no_network(document):
    text, found = document
    assert text.startswith("<!doctype html>") and not found.open
    references = [of[key] for of in found.of(*{tag for tag, _ in found.tags}) for key in ("src", "href") if key in of]
    assert references and all(reference.startswith(("data:", "#")) for reference in references)
    assert "url(" not in text and "@import" not in text and "http" not in re.sub(r"http-equiv", "", text)
    assert len(text) < 5_000_000


def test_the_page_can_be_read_without_eyes(document):
    _, found = document
    ids = [of["id"] for _, of in found.tags if "id" in of]
    assert len(ids) == len(set(ids))
    for attributes in found.of("img"):
        assert attributes["alt"]
    # A drawing is hidden, as what stands beside it says the same, or it is a picture with a name.
    for drawing in [of for tag, of in found.told if tag == "svg"]:
        names = drawing.get("aria-labelledby", "").split()
        assert drawing.get("role") == "img" and names and set(names) <= set(ids), drawing
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(found.of("caption")) == len(found.of("table"))
    assert all("scope" in of for of in found.of("th"))
    assert {of["href"][1:] for of in found.of("a") if of["href"].startswith("#")} <= set(ids)
    assert found.of("html")[0]["lang"] == "en"


def test_a_drawing_without_a_name_is_found():
    found = Document('<p aria-hidden="true"><svg></svg></p><svg aria-hidden="true"></svg><p><svg></svg></p>')
    assert len(found.of("svg")) == 3 and [tag for tag, _ in found.told] == ["p", "svg"]


def noise(rng, side=600):
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.fixture
def large_sources(sources_of, rng):
    """All that makes a page long: many classes, slices, rules and epochs, long names, pictures that do not compress."""
    path = "a long name & " * 14

    def make(num_classes, **replaced):
        names = [f"{index} {path}" for index in range(num_classes)]
        sources = sources_of(names, count=8 * num_classes, with_baseline=True)
        overall = sources.evaluation.overall
        rows = [overall, *(overall.model_copy(update={"name": f"camera = {index} {path}"}) for index in range(400))]
        picture = pictures.photograph(noise(rng), path)
        decision = Explained(f"{path}/1.png", names[0], names[1], 0.98, picture, picture)
        rules = [
            gate(class_name=name, slice=row.name, passed=False) for name, row in zip(names, rows[1:], strict=False)
        ]
        said = {
            "evaluation": sources.evaluation.model_copy(update={"candidate": tuple(rows), "baseline": tuple(rows)}),
            "gates": GateReport(has_baseline=True, results=rules * 5),
            "mistakes": [decision] * pictures.NUM_MISTAKES,
            "right": [decision] * pictures.NUM_RIGHT,
            "quarantined": [QuarantinedFile(path=path, reason=path)] * 50,
            "duplicates": [duplicate_group("near", [path] * 20, names[0])] * 50,
            "drift": {"previous_span": 3, "found": [path] * 400, "skew": [path] * 400},
            "history": sources.history * 500,
            "pushed": None,
            "blessed": False,
        }
        return dataclasses.replace(sources, **said | replaced)

    return make


@pytest.mark.parametrize("num_classes", [figure_tables.MOST_CLASSES_IN_MATRIX, 600])
def test_the_longest_page_of_classes_keeps_below_five_megabytes(large_sources, num_classes):
    text = render(large_sources(num_classes))
    assert text.count('src="data:image/') == 36 and "drawn with fewer pixels" in text
    assert len(text.encode()) < 5_000_000
    assert ("Confusion matrix" in text) == (num_classes <= figure_tables.MOST_CLASSES_IN_MATRIX)


def test_the_longest_page_of_masks_keeps_below_five_megabytes(large_sources, mask_sources, rng):
    classes = [f"{index} {'a long name ' * 10}" for index in range(256)]
    truth, predicted = rng.integers(0, 256, (2, 600, 600), dtype=np.uint8)
    comparison = masks.compare("a.png", np.asarray(noise(rng)), truth, predicted, classes, None)
    drawn = (comparison.picture, comparison.truth, comparison.predicted, comparison.difference)
    assert all(picture.reduced and not picture.crisp for picture in drawn[:3])
    figures = mask_sources.evaluation.overall
    evaluation = mask_sources.evaluation.model_copy(
        update={
            "classes": classes,
            "candidate": [
                figures.model_copy(
                    update={
                        "class_metrics": dict.fromkeys(classes, figures.class_metrics["sky"]),
                        "support": dict.fromkeys(classes, 100),
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
            mistakes=[],
            right=[],
            comparisons=[comparison] * pictures.NUM_MASKS,
            legend=[(name, "#000000") for name in classes],
        )
    )
    assert text.count('src="data:image/') == 48 and "drawn with fewer pixels" in text
    assert len(text.encode()) < 5_000_000


def test_pictures_are_made_smaller_only_where_they_would_take_too_much(rng):
    found = pictures.photograph(noise(rng), "")
    assert found.reduced and 64 < found.width == found.height < pictures.MOST_PIXELS
    assert len(base64.b64decode(found.uri.split(",")[1])) <= pictures.MOST_BYTES
    gradient = np.linspace(0, 255, 600 * 600 * 3, dtype=np.uint8).reshape(600, 600, 3)
    plain = pictures.photograph(Image.fromarray(gradient), "")
    assert (plain.width, plain.reduced) == (pictures.MOST_PIXELS, False)


def test_many_classes_are_cut_to_the_weakest_and_the_page_says_where_all_are(sources_of):
    sources = sources_of([f"class {index}" for index in range(400)], count=4000)
    found = figure_tables.class_table(sources.evaluation, [])
    weakest = sorted(of["f1"] for of in sources.evaluation.overall.class_metrics.values())[:300]
    assert [row[1].sort for row in found.rows] == weakest
    assert found.caption == "Classes, the weakest first; the first 300 of 400 (evaluation.json has all)"
    counted = page.build(sources).data.classes
    assert [row[-1].sort for row in counted.rows] == [3 * (10 + index) for index in range(300)]
    assert counted.caption == "Pictures by class, the rarest first; the first 300 of 400 (summary.json has all)"


@pytest.mark.parametrize(("num_classes", "in_words"), [(40, True), (41, False)])
def test_cells_of_a_matrix_have_words_up_to_forty_classes(sources_of, num_classes, in_words):
    sources = sources_of([f"class {index}" for index in range(num_classes)], count=400)
    cells = [cell for row in figure_tables.confusion(sources.evaluation).rows for cell in row]
    assert len(cells) == num_classes**2 and {bool(cell.title) for cell in cells} == {in_words}
    assert (' title="class 1 taken for class 2: ' in render(sources)) == in_words


def test_nothing_that_does_not_exist_is_shown_as_nan(document):
    text, found = document
    assert not re.search(r"\bnan\b", found.text) and 'data-v="nan"' not in text and "None" not in found.text


def test_a_browser_runs_the_pages_script_and_no_other(document):
    text, found = document
    assert len(found.of("script")) == 1
    body = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    (policy,) = [of["content"] for of in found.of("meta") if of.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")


def test_names_are_text_wherever_they_stand(sources_of, mask_sources, rng):
    sources = sources_of(
        (NASTY, "dog", '" onmouseover="alert(1)'),
        name=NASTY,
        quarantined=[QuarantinedFile(path=NASTY_FILE, reason=NASTY)],
        duplicates=[duplicate_group("near", [NASTY_FILE], NASTY)],
        drift={"previous_span": 3, "found": [NASTY], "skew": [NASTY]},
        gates=GateReport(has_baseline=False, results=[gate(class_name=NASTY, slice=f"camera = {NASTY}", passed=False)]),
        blessed=False,
        pushed=None,
        checks=[{"name": NASTY, "passed": False, "detail": NASTY_FILE}],
        lineage=[(NASTY, NASTY)],
        configuration=f'[pipeline]\nname = "{NASTY}"\n',
    )
    pixels, ids = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.zeros((8, 8), np.uint8)
    comparison = masks.compare(NASTY_FILE, pixels, ids, ids + 1, [NASTY, "b"], None)
    picture = pictures.photograph(Image.fromarray(pixels), NASTY_FILE)
    sources = dataclasses.replace(sources, mistakes=[Explained(NASTY_FILE, NASTY, "dog", 0.9, picture, picture)])
    with_masks = dataclasses.replace(mask_sources, comparisons=[comparison], legend=[(NASTY, "#000000")])
    for text in (render(sources), render(with_masks)):
        found = Document(text)
        assert len(found.of("script")) == 1 and not [of for of in found.of("img") if of["src"] == "x"]
        assert not [of for _, of in found.tags if any(key.startswith("on") for key in of)]
        assert NASTY in found.text and NASTY_FILE in found.text


def test_the_configuration_on_the_page_gives_the_same_pipeline(sources_of, tmp_path):
    overrides = ["tuner.enabled=true", "evaluation.slices=['a \"b\"']"]
    loaded = loading.with_absolute_paths(loading.load("clothing", data=str(tmp_path), overrides=overrides))
    found = Document(render(sources_of(configuration=loading.as_toml(loaded))))
    (link,) = [of for of in found.of("a") if of.get("download") == "model.toml"]
    saved = tmp_path / "model.toml"
    saved.write_bytes(base64.b64decode(link["href"].split(",")[1]))
    assert loading.load(str(saved)) == loaded
    assert saved.read_text() in found.text


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


def test_what_is_no_local_path_stays_as_it_is():
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


# --- Colours ----------------------------------------------------------------------------------------------------


def color_schemes():
    """The variables of the style sheet: light, and dark over light."""
    light, dark = (
        {
            name: tuple(int(value[i : i + 2], 16) for i in (1, 3, 5))
            for name, value in re.findall(r"--([\w-]+): (#\w{6});", block)
        }
        for block in re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    )
    return {"light": light, "dark": light | dark}


def contrast(one, other):
    """Of two colours, in [1, 21].

    Reference: W3C, Web Content Accessibility Guidelines 2.2, 2023, definition of contrast ratio.
    """

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in color)]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme):
    colors = color_schemes()[scheme]
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    text = [
        (name, behind) for name in ("ink", "soft", "accent", "good", "bad") for behind in ("paper", "card", "sunken")
    ]
    text += [("ink", "good-card"), ("good", "good-card"), ("ink", "bad-card"), ("bad", "bad-card")]
    for name, behind in text:
        assert contrast(colors[name], colors[behind]) >= 4.5, (name, behind)
    for name in ("curve-1", "curve-2"):
        assert contrast(colors[name], colors["card"]) >= 3, name
    css = STYLE.read_text()
    for name in ("hit", "miss"):
        most = int(re.search(rf"var\(--{name}\) calc\(var\(--s\) \* (\d+)%\)", css)[1]) / 100
        for share in (0.25, 0.5, 1.0):
            mixed = [
                most * share * a + (1 - most * share) * b for a, b in zip(colors[name], colors["card"], strict=True)
            ]
            assert contrast(colors["ink"], mixed) >= 4.5, (name, share)


# How full protanopia, deuteranopia and tritanopia change linear red, green and blue; the last is none.
# Reference: G. Machado, M. Oliveira & L. Fernandes, A Physiologically-based Model for Simulation of Color Vision
# Deficiency, IEEE Trans. Visualization and Computer Graphics 15(6), 2009, supplementary table, severity 1.0.
VISION = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3).tolist(),
}


def seen_difference(one, other, vision):
    """Of two colours as somebody sees them: distance in CIELAB; about 2.3 is just noticeable.

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
def test_colour_blind_people_tell_the_classes_of_masks_apart(vision):
    for one, other in itertools.combinations(masks.palette(7), 2):
        assert seen_difference(one, other, vision) > 15, (one, other)
    for one, other in itertools.combinations(masks.palette(12), 2):
        assert seen_difference(one, other, vision) > 10, (one, other)


def test_a_red_and_a_green_would_not_do():
    red, green = (200, 80, 80), (80, 150, 80)
    assert seen_difference(red, green, "none") > 50 > 15 > seen_difference(red, green, "deuteranopia")


# --- In a browser -----------------------------------------------------------------------------------------------

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")


def browse(path, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=path.parent).stdout


def ask(text, tmp_path, script, width=1280):
    """Runs a script in the page, in a frame of some width, and gives back what it leaves: a value as JSON.

    Headless Chromium's windows are at least 500 pixels wide; a frame is as narrow as it is told.
    """
    # The page's policy lets no other script run, so it is lifted for this one.
    inner = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    (tmp_path / "inner.html").write_text(inner + f"<script>parent.postMessage((() => {{{script}}})(), '*');</script>")
    outer = tmp_path / "outer.html"
    outer.write_text(
        '<!doctype html><pre id="answer"></pre>'
        f'<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>'
        "<script>addEventListener('message', (event) => "
        "{ document.getElementById('answer').textContent = JSON.stringify(event.data); });</script>"
    )
    dumped = browse(outer, "--dump-dom", "--virtual-time-budget=4000", "--window-size=1400,1000")
    return json.loads(html.unescape(re.search(r'<pre id="answer">(.*?)</pre>', dumped, re.DOTALL)[1]))


@in_browser
@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_only_tables_scroll_sideways(sources_of, tmp_path, width):
    long = "a-very-long-name-without-any-space-" * 4
    sources = sources_of(
        [long, *(f"class {i}" for i in range(59))],
        count=400,
        with_baseline=True,
        pushed=Push("1", f"/{long}/{long}"),
        quarantined=[QuarantinedFile(path=f"{long}.png", reason=long)],
        lineage=[("Model", f"/{long}{long}")],
    )
    found = ask(
        render(sources),
        tmp_path,
        "return [document.documentElement.clientWidth, document.documentElement.scrollWidth, "
        "[...document.querySelectorAll('.scroll')].some((box) => box.scrollWidth > box.clientWidth)];",
        width,
    )
    assert found == [width, width, True]


@in_browser
def test_a_click_sorts_and_says_so(sources_of, tmp_path):
    found = ask(
        render(sources_of(("a", "b", "c", "d"))),
        tmp_path,
        """
        const table = document.querySelector("#classes table");
        const column = (index) => [...table.tBodies[0].rows].map((row) => row.cells[index].textContent);
        const buttons = table.querySelectorAll("thead button");
        const said = [];
        for (const index of [5, 5, 0]) {
          buttons[index].click();
          said.push([column(index), table.tHead.rows[0].cells[index].getAttribute("aria-sort"),
                     table.querySelectorAll("[aria-sort]").length, document.getElementById("status").textContent]);
        }
        buttons[0].focus();
        return [said, document.activeElement === buttons[0]];
        """,
    )
    (up, down, names), focused = found
    numbers = [int(value) for value in up[0]]
    assert numbers == sorted(numbers) and up[1:] == ["ascending", 1, "Sorted by Images, ascending"]
    assert [int(value) for value in down[0]] == numbers[::-1] and down[1] == "descending"
    assert names[0] == ["a", "b", "c", "d"] and focused


@in_browser
def test_what_does_not_exist_is_sorted_last_in_both_directions(mask_sources, tmp_path):
    found = ask(
        render(mask_sources),
        tmp_path,
        """
        const table = document.querySelector("#classes table");
        const button = table.querySelectorAll("thead button")[1];
        const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
        return [1, 2].map(() => { button.click(); return names(); });
        """,
    )
    assert found == [["sky", "road", "car"], ["road", "sky", "car"]]


@in_browser
def test_everything_is_open_in_print_and_closed_again(sources_of, tmp_path):
    found = ask(
        render(sources_of()),
        tmp_path,
        """
        const closed = () => document.querySelectorAll("details:not([open])").length;
        const counts = [closed()];
        for (const name of ["beforeprint", "afterprint"]) { dispatchEvent(new Event(name)); counts.push(closed()); }
        return counts;
        """,
    )
    assert found[0] > 3 and found == [found[0], 0, found[0]]


@in_browser
def test_the_pages_own_script_runs_and_an_injected_one_does_not(sources_of, tmp_path):
    path = tmp_path / "report.html"
    injected = "<script>document.title = 'taken over'</script>"
    path.write_text(render(sources_of()).replace("<main>", f"<main>{injected}"))
    dumped = browse(path, "--dump-dom")
    assert "<title>pets: Pushed as version 1795346754</title>" in dumped
    assert '<button type="button">' in dumped


@in_browser
@pytest.mark.parametrize(
    ("name", "size", "dark"),
    [("phone", (390, 844), False), ("desktop", (1280, 900), False), ("dark", (1280, 900), True)],
)
def test_a_picture_of_the_page_has_its_colours(sources_of, tmp_path, name, size, dark):
    width, height = size
    shot = tmp_path / f"{name}.png"
    (tmp_path / "report.html").write_text(render(sources_of()))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<!doctype html><style>body { margin: 0 } iframe { display: block; border: 0 }</style>"
        f'<iframe src="report.html" style="width:{width}px;height:{height}px"></iframe>'
    )
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    browse(frame, f"--screenshot={shot}", f"--window-size={max(width, 500)},{height}", scheme)
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"))[:, :width]
    assert pixels.shape[:2] == (height, width)
    colors = color_schemes()["dark" if dark else "light"]
    for color in ("paper", "good-card"):
        assert (pixels == colors[color]).all(axis=-1).mean() > 0.05, color
