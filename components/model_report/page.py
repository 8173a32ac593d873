"""What the report says: a tree of plain values, built by pure functions from what the nodes left."""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.evaluator.figures import ALL, Evaluation, Gate, Gates, SliceFigures
from components.model_report import charts, names
from components.model_report.charts import Chart
from components.model_report.masks import Comparison
from components.model_report.pictures import Picture
from components.model_report.tables import MINUS, NO_VALUE, Cell, Column, Table, count, interval, number

# Beyond so many classes a matrix is no longer taken in at a glance: the pairs come first.
MANY_CLASSES = 25
# Beyond so many it is left out: a matrix of a thousand classes would be ten times the rest of the page.
MOST_CLASSES_IN_MATRIX = 120
_MOST_PAIRS = 20
_MOST_LISTED = 50
_MOST_GROUPS = 20
# A distance of confidence and accuracy that is worth a word.
_OFF = 0.01
# Figures that are told slice by slice, as far as there are any.
_OF_SLICES = {
    "classification": ("accuracy", "macro_f1", "macro_auc", "cross_entropy"),
    "segmentation": ("mean_iou", "mean_dice", "pixel_accuracy"),
}
_PHASES = {"whole": "whole network", "head": "head", "fine_tuning": "fine-tuning"}
_SIDE_OF = {True: "at least", False: "at most"}


# --- What is given ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Explained:
    """A decision with its Grad-CAM.

    Attributes:
      filename: As in the data.
      truth: Its class.
      predicted: The class that the model chose.
      score: Its probability.
      picture: As the model saw it.
      overlay: With the heat map.
      empty: Whether nothing speaks for the chosen class.
    """

    filename: str
    truth: str
    predicted: str
    score: float
    picture: Picture
    overlay: Picture
    empty: bool = False


@dataclass(frozen=True)
class Sizes:
    """Sides of the pictures of a split, before resizing, pixels: smallest, median, largest."""

    split: str
    widths: tuple[float, float, float]
    heights: tuple[float, float, float]
    formats: dict[str, int]


@dataclass(frozen=True)
class Push:
    """Where a model was pushed."""

    version: str
    destination: str


@dataclass(frozen=True)
class Sources:
    """What the nodes of a run left, read and parsed.

    Attributes:
      name: Of the served model.
      evaluation: Figures.
      gates: What the Evaluator's rules said.
      blessed: The Evaluator's verdict, as Pusher reads it.
      checks: ServingValidator's: name, passed, detail.
      servable: ServingValidator's verdict, as Pusher reads it.
      pushed: None if nothing was.
      baseline: What the model was compared with, in words; empty where nothing was there.
      history: Rows of `history.csv`.
      tuned: What Tuner found: name of the field → value.
      trials: Rows of `trials.csv`, if Tuner ran.
      data: ImageExampleGen's summary.
      sizes: Of the pictures, split by split.
      quarantined: Path and reason of refused files, as many as are listed.
      duplicates: Groups of `duplicates.jsonl`, as many as are listed.
      drift: ExampleValidator's comparison: `previous_span`, `found`.
      explained: Whether GradCam has run.
      mistakes: The most confident wrong decisions, the most confident first.
      right: The most confident right ones.
      comparisons: Of masks: the pictures with the lowest pixel accuracy, the lowest first.
      legend: Of masks: class → colour as CSS says it.
      lineage: What the model was made from: name → value.
      versions: Of packages: name → version.
      configuration: The whole, as TOML.
      created: When the report is made.
    """

    name: str
    evaluation: Evaluation
    gates: Gates
    blessed: bool
    checks: list[dict[str, Any]]
    servable: bool
    pushed: Push | None
    baseline: str
    history: list[dict[str, str]]
    data: dict[str, Any]
    configuration: str
    created: datetime.datetime
    tuned: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, str]] | None = None
    sizes: list[Sizes] = field(default_factory=list)
    quarantined: list[dict[str, str]] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    drift: dict[str, Any] = field(default_factory=dict)
    explained: bool = False
    mistakes: list[Explained] = field(default_factory=list)
    right: list[Explained] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    lineage: list[tuple[str, str]] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)


# --- What is shown ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fact:
    """A figure of the banner."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Reason:
    """Why a model was refused: who says it, of what, and what."""

    gate: str
    subject: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What the page opens with.

    Attributes:
      pushed: Whether the model went out.
      headline: In one line.
      sentence: Who agreed, or what follows from the refusal.
      against: What the model was held against.
      reasons: Of a refusal.
      facts: The few figures that matter most.
    """

    pushed: bool
    headline: str
    sentence: str
    against: str
    reasons: list[Reason]
    facts: list[Fact]


@dataclass(frozen=True)
class MatrixCell:
    """A cell of the confusion matrix.

    Attributes:
      text: Examples, or of masks percent of the row.
      shade: Depth of its colour, range [0, 1].
      right: Whether it lies on the diagonal.
      title: The same in words.
    """

    text: str
    shade: float
    right: bool
    title: str


@dataclass(frozen=True)
class Confusion:
    """What is taken for what.

    Attributes:
      caption: What stands in the cells.
      classes: Class names; rows are actual, columns predicted.
      rows: Of the matrix; empty where there are too many classes.
      pairs: The most frequent mistakes, or None where there are none.
      pairs_first: Whether these are to be read before the matrix.
      left_out: Why there is no matrix.
    """

    caption: str
    classes: list[str]
    rows: list[list[MatrixCell]]
    pairs: Table | None
    pairs_first: bool
    left_out: str = ""


@dataclass(frozen=True)
class Data:
    """What the model was made and measured with.

    Attributes:
      sentence: How many, in how many classes and splits.
      classes: Pictures by class and split; None for masks, which have many classes a picture.
      splits: Pictures by split, with their sizes.
      duplicates: Counts of copies, in sentences.
      groups: The first groups of copies, or None.
      quarantine: In a sentence.
      refused: The first refused files, or None.
      drift: In a sentence; empty where spans are not used.
      drifted: What has drifted.
    """

    sentence: str
    classes: Table | None
    splits: Table
    duplicates: list[str]
    groups: Table | None
    quarantine: str
    refused: Table | None
    drift: str
    drifted: list[str]


@dataclass(frozen=True)
class Page:
    """The whole report."""

    name: str
    task: str
    split: str
    created: str
    verdict: Verdict
    metrics: Table
    has_baseline: bool
    rules: Table
    checks: Table
    classes: Table
    slices: Table | None
    confusion: Confusion
    reliability: Chart | None
    explained: bool
    mistakes: list[Explained]
    right: list[Explained]
    comparisons: list[Comparison]
    legend: list[tuple[str, str]]
    data: Data
    training: list[Chart]
    training_sentence: str
    epochs: Table
    tuned: Table | None
    trials: Table | None
    lineage: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    configuration: str
    configuration_uri: str


def build(sources: Sources) -> Page:
    """Turns what the nodes left into what is shown."""
    evaluation = sources.evaluation
    baseline = {entry.name: entry for entry in evaluation.baseline or []}
    encoded = base64.b64encode(sources.configuration.encode()).decode()
    training = training_charts(sources.history)
    return Page(
        name=sources.name,
        task=evaluation.task,
        split=evaluation.split,
        created=sources.created.strftime("%Y-%m-%d %H:%M UTC"),
        verdict=verdict(sources),
        metrics=metrics_table(evaluation.overall, baseline.get(ALL)),
        has_baseline=evaluation.baseline is not None,
        rules=rules_table(sources.gates.gates),
        checks=_checks_table(sources.checks),
        classes=class_table(evaluation, baseline.get(ALL), sources.gates.gates),
        slices=slice_table(evaluation, baseline, sources.gates.gates),
        confusion=confusion(evaluation),
        reliability=reliability(evaluation.overall),
        explained=sources.explained,
        mistakes=sources.mistakes,
        right=sources.right,
        comparisons=sources.comparisons,
        legend=sources.legend,
        data=data(sources),
        training=training,
        training_sentence=_training_sentence(sources.history),
        epochs=_epochs_table(sources.history),
        tuned=_tuned_table(sources.tuned),
        trials=_trials_table(sources.trials or []),
        lineage=sources.lineage,
        versions=sources.versions,
        configuration=sources.configuration,
        configuration_uri=f"data:application/toml;base64,{encoded}",
    )


# --- The verdict ------------------------------------------------------------------------------------------------


def verdict(sources: Sources) -> Verdict:
    """Pushed or refused, why, and against what."""
    failures = sorted(sources.gates.failures(), key=_severity)
    reasons = [Reason("Evaluator", _subject(gate), _judgement(gate)) for gate in failures]
    reasons += [
        Reason("ServingValidator", str(check["name"]), str(check["detail"]))
        for check in sources.checks
        if not check["passed"]
    ]
    if sources.pushed is not None:
        headline = f"Pushed as version {sources.pushed.version}"
        sentence = f"Every gate agreed. The model is in {sources.pushed.destination}."
    elif not sources.blessed or not sources.servable:
        who = [
            name
            for name, agreed in (("Evaluator", sources.blessed), ("ServingValidator", sources.servable))
            if not agreed
        ]
        headline = f"Refused by {' and '.join(who)}"
        sentence = "Nothing was pushed; the version before, if any, is still served."
        if not reasons:
            reasons = [
                Reason(
                    "Evaluator", "No rule", "could be held against anything, and what is not measured may not go out"
                )
            ]
    else:
        headline, sentence = "Not pushed", "Every gate agreed, but Pusher did not push: its log says why."
    against = (
        f"Compared with the last blessed model ({sources.baseline})."
        if sources.gates.has_baseline and sources.baseline
        else "Compared with the last blessed model."
        if sources.gates.has_baseline
        else "There was no blessed model to compare with: only fixed thresholds were held against it."
    )
    return Verdict(sources.pushed is not None, headline, sentence, against, reasons, _facts(sources))


def _facts(sources: Sources) -> list[Fact]:
    evaluation = sources.evaluation
    overall = evaluation.overall
    baseline = evaluation.baseline[0] if evaluation.baseline else None
    facts = []
    main = main_metric(overall, evaluation.task)
    if main:
        value = overall.metrics[main]
        notes = [text for text in (interval(overall.intervals.get(main)),) if text]
        if baseline and main in baseline.metrics:
            notes.append(f"{_signed(value - baseline.metrics[main])} to the model before")
        facts.append(Fact(names.figure(main), number(value).text, ", ".join(notes)))
    worst = _worst(evaluation)
    if worst:
        name, key, value = worst
        facts.append(Fact(f"Weakest class: {name}", number(value).text, names.figure(key)))
    held = [gate for gate in sources.gates.gates if gate.passed is not None]
    passed = sum(bool(gate.passed) for gate in held)
    facts.append(Fact("Rules kept", f"{passed} of {len(held)}", "thresholds and comparisons"))
    good = sum(bool(check["passed"]) for check in sources.checks)
    facts.append(Fact("Serving checks", f"{good} of {len(sources.checks)}", "the export, in a session"))
    return facts


def main_metric(figures: SliceFigures, task: str) -> str:
    """The name of the figure that stands for all; empty if there is none."""
    return next((name for name in names.MAIN[task] if name in figures.metrics), "")


def _worst(evaluation: Evaluation) -> tuple[str, str, float] | None:
    key = names.MAIN_OF_CLASS[evaluation.task]
    known = [
        (name, key, figures[key])
        for name, figures in evaluation.overall.per_class.items()
        if not math.isnan(figures.get(key, math.nan))
    ]
    return min(known, key=lambda item: item[2], default=None)


def _subject(gate: Gate) -> str:
    parts = [names.figure(gate.metric)]
    if gate.class_name is not None:
        parts.append(f"of {gate.class_name}")
    if gate.slice != ALL:
        parts.append(f"where {gate.slice}")
    return " ".join(parts)


def _judgement(gate: Gate) -> str:
    if math.isnan(gate.value) or math.isnan(gate.bound):
        return gate.detail or "could not be computed"
    text = f"{gate.value:.4f}, {_SIDE_OF[gate.higher_is_better]} {gate.bound:.4f} asked"
    return f"{text}, missed by {gate.missed_by:.4f}" if gate.passed is False else text


def _severity(gate: Gate) -> tuple[float, float]:
    """All examples before slices and classes, then the farthest from its bound."""
    narrow = (gate.slice != ALL) + (gate.class_name is not None)
    return narrow, -gate.missed_by if not math.isnan(gate.missed_by) else -math.inf


def rules_table(gates: Sequence[Gate]) -> Table:
    """Every rule on every figure: what failed first, then what was not held against anything, then the narrowest."""
    words = {
        True: Cell("✓ kept", 2.0, tone="good"),
        False: Cell("✗ broken", 0.0, tone="bad"),
        None: Cell("· not held", 1.0, tone="soft"),
    }

    def order(gate: Gate) -> tuple[float, float]:
        margin = abs(gate.value - gate.bound)
        distance = -margin if gate.passed is False else margin
        return words[gate.passed].sort or 0.0, math.inf if math.isnan(distance) else distance

    rows = [
        [
            Cell(names.figure(gate.metric), note=gate.class_name or ""),
            Cell("all examples" if gate.slice == ALL else gate.slice),
            words[gate.passed],
            number(gate.value),
            Cell(NO_VALUE, math.nan, tone="soft")
            if math.isnan(gate.bound)
            else Cell(f"{'≥' if gate.higher_is_better else '≤'} {gate.bound:.4f}", gate.bound),
            count(gate.examples),
            Cell(gate.rule, note=gate.detail),
        ]
        for gate in sorted(gates, key=order)
    ]
    columns = [
        Column("Figure"),
        Column("Where"),
        Column("Verdict", numeric=False),
        Column("Value", numeric=True),
        Column("Asked", numeric=True),
        Column("Examples", numeric=True),
        Column("Rule"),
    ]
    return Table("Every rule of the configuration, the broken ones first", columns, rows)


def _checks_table(checks: Iterable[dict[str, Any]]) -> Table:
    rows = [
        [
            Cell(str(check["name"])),
            Cell("✓ passed", tone="good") if check["passed"] else Cell("✗ failed", tone="bad"),
            Cell(str(check["detail"])),
        ]
        for check in sorted(checks, key=lambda check: bool(check["passed"]))
    ]
    return Table(
        "What the exported model was asked in a session", [Column("Check"), Column("Verdict"), Column("Detail")], rows
    )


# --- Figures ----------------------------------------------------------------------------------------------------


def metrics_table(overall: SliceFigures, baseline: SliceFigures | None) -> Table:
    """Every figure over all examples."""
    columns = [Column("Figure"), Column("Value", numeric=True)]
    if overall.intervals:
        columns.append(Column("95 % interval", numeric=True))
    if baseline:
        columns += [Column("Model before", numeric=True), Column("Change", numeric=True)]
    rows = []
    for name, value in overall.metrics.items():
        if name == "examples":
            continue
        row = [Cell(names.figure(name), note=names.meaning(name)), number(value)]
        if overall.intervals:
            row.append(Cell(interval(overall.intervals.get(name)) or NO_VALUE, tone="soft"))
        if baseline:
            before = baseline.metrics.get(name, math.nan)
            row += [number(before), _change(name, value, before)]
        rows.append(row)
    examples = overall.metrics.get("examples", math.nan)
    return Table(f"Over all {count(examples).text} examples of the split", columns, rows)


def _change(name: str, value: float, before: float) -> Cell:
    difference = value - before
    if math.isnan(difference):
        return Cell(NO_VALUE, math.nan, tone="soft")
    if abs(difference) < 5e-5:
        return Cell(_signed(0.0), 0.0, "the same", "soft")
    better = (difference < 0) == names.lower_is_better(name)
    return Cell(_signed(difference), difference, "better" if better else "worse", "good" if better else "bad")


def _signed(difference: float) -> str:
    if math.isnan(difference):
        return NO_VALUE
    text = f"{difference:+.4f}"
    return "±0.0000" if float(text) == 0.0 else text.replace("-", MINUS)


def _broken(gates: Iterable[Gate], *, class_name: str | None = None, slice_name: str | None = None) -> int:
    return sum(
        gate.passed is False
        and (class_name is None or (gate.class_name == class_name and gate.slice == ALL))
        and (slice_name is None or gate.slice == slice_name)
        for gate in gates
    )


def _rank(value: float) -> tuple[bool, float]:
    """Ascending, what does not exist at the end."""
    return math.isnan(value), value


def class_table(evaluation: Evaluation, baseline: SliceFigures | None, gates: Sequence[Gate]) -> Table:
    """Figures of every class, the lowest first."""
    overall = evaluation.overall
    key = names.MAIN_OF_CLASS[evaluation.task]
    figures = [
        name for name in dict.fromkeys(name for of in overall.per_class.values() for name in of) if name != "support"
    ]
    figures.sort(key=lambda name: name != key)
    columns = [Column("Class")] + [Column(names.figure(name), numeric=True) for name in figures]
    if baseline:
        columns.append(Column(f"{names.figure(key)}, change", numeric=True))
    columns.append(Column("Pixels" if evaluation.task == "segmentation" else "Support", numeric=True))
    rows = []
    ordered = sorted(overall.per_class.items(), key=lambda item: _rank(item[1].get(key, math.nan)))
    for class_name, of in ordered:
        intervals = overall.class_intervals.get(class_name, {})
        broken = _broken(gates, class_name=class_name)
        row = [Cell(class_name, note=_rules_broken(broken), tone="bad" if broken else "")]
        row += [number(of.get(name, math.nan), note=interval(intervals.get(name))) for name in figures]
        if baseline:
            row.append(_change(key, of.get(key, math.nan), baseline.per_class.get(class_name, {}).get(key, math.nan)))
        row.append(count(of.get("support", math.nan)))
        rows.append(row)
    return Table(f"Classes, lowest {names.figure(key)} first", columns, rows, sorted_by=1 if figures else None)


def _rules_broken(number_of: int) -> str:
    return f"{number_of} rule{'s' if number_of > 1 else ''} broken" if number_of else ""


def slice_table(evaluation: Evaluation, baseline: dict[str, SliceFigures], gates: Sequence[Gate]) -> Table | None:
    """Figures of every slice, the worst first; None where there is none but all examples."""
    overall, *slices = evaluation.candidate
    main = main_metric(overall, evaluation.task)
    if not slices or not main:
        return None
    shown = [name for name in _OF_SLICES[evaluation.task] if name in overall.metrics] or [main]
    columns = [Column("Slice")] + [Column(names.figure(name), numeric=True) for name in shown]
    columns.append(Column("Distance from all", numeric=True))
    if baseline:
        columns.append(Column(f"{names.figure(main)}, change", numeric=True))
    columns.append(Column("Examples", numeric=True))

    def row(of: SliceFigures) -> list[Cell]:
        broken = _broken(gates, slice_name=of.name) if of is not overall else 0
        name = "all examples" if of is overall else of.name
        cells = [Cell(name, note=_rules_broken(broken), tone="bad" if broken else "")]
        cells += [number(of.metrics.get(figure, math.nan), note=interval(of.intervals.get(figure))) for figure in shown]
        distance = of.metrics.get(main, math.nan) - overall.metrics[main]
        cells.append(
            Cell(_signed(distance), distance, tone="soft") if of is not overall else Cell(NO_VALUE, tone="soft")
        )
        if baseline:
            before = baseline[of.name].metrics.get(main, math.nan) if of.name in baseline else math.nan
            cells.append(_change(main, of.metrics.get(main, math.nan), before))
        cells.append(count(of.metrics.get("examples", math.nan)))
        return cells

    ordered = sorted(slices, key=lambda of: (*_rank(of.metrics.get(main, math.nan)), of.name))
    return Table(
        f"Slices, lowest {names.figure(main).lower()} first",
        columns,
        [row(of) for of in ordered],
        pinned=[row(overall)],
        sorted_by=1 + shown.index(main) if main in shown else None,
    )


def confusion(evaluation: Evaluation) -> Confusion:
    """What is taken for what, over all examples."""
    classes, matrix = evaluation.classes, evaluation.overall.confusion
    pixels = evaluation.task == "segmentation"
    unit = "pixels" if pixels else "pictures"
    totals = [sum(row) for row in matrix]
    rows = []
    if len(classes) <= MOST_CLASSES_IN_MATRIX:
        for actual, row in enumerate(matrix):
            cells = []
            for predicted, found in enumerate(row):
                share = found / totals[actual] if totals[actual] else 0.0
                verb = "found" if actual == predicted else f"taken for {classes[predicted]}"
                title = f"{classes[actual]} {verb}: {found:,} {unit}, {share:.1%}"
                text = (f"{100 * share:.1f}" if found else "0") if pixels else f"{found:,}"
                # The root, so that a rare mistake is seen beside a full diagonal.
                shade = share if actual == predicted else math.sqrt(share)
                cells.append(MatrixCell(text, round(shade, 3), actual == predicted, title))
            rows.append(cells)
    return Confusion(
        caption=(
            "Rows are what is there, columns what the model says, in percent of the row's pixels"
            if pixels
            else "Rows are what is there, columns what the model says; pictures"
        ),
        classes=classes,
        rows=rows,
        pairs=_pairs(classes, matrix, totals, unit),
        pairs_first=len(classes) > MANY_CLASSES,
        left_out="" if rows else f"A matrix of {len(classes):,} classes would not be readable; figures.json has it.",
    )


def _pairs(classes: list[str], matrix: list[list[int]], totals: list[int], unit: str) -> Table | None:
    found = [
        (value, actual, predicted)
        for actual, row in enumerate(matrix)
        for predicted, value in enumerate(row)
        if value and actual != predicted
    ]
    if not found:
        return None
    found.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    rows = [
        [
            Cell(classes[actual]),
            Cell(classes[predicted]),
            count(value),
            Cell(f"{value / totals[actual]:.1%}".replace("%", " %"), value / totals[actual]),
        ]
        for value, actual, predicted in found[:_MOST_PAIRS]
    ]
    caption = (
        f"The {len(rows)} most frequent mistakes" if len(found) > len(rows) else "All mistakes, most frequent first"
    )
    columns = [Column("Actually"), Column("Taken for"), Column(unit.capitalize(), numeric=True)]
    columns.append(Column("Of the class", numeric=True))
    return Table(caption, columns, rows, sorted_by=2, descending=True)


def reliability(overall: SliceFigures) -> Chart | None:
    """How often the model is right by how sure it is."""
    bins = [(bin_.lower, bin_.upper, bin_.count, bin_.confidence, bin_.accuracy) for bin_ in overall.reliability]
    if not any(found for *_, found, _, _ in bins):
        return None
    rows = [
        [
            Cell(f"{lower:g} to {upper:g}", lower),
            count(found),
            number(confidence),
            number(accuracy),
            Cell(_signed(accuracy - confidence) if found else NO_VALUE, accuracy - confidence, tone="soft"),
        ]
        for lower, upper, found, confidence, accuracy in bins
    ]
    columns = [Column("Confidence", numeric=True), Column("Predictions", numeric=True)]
    columns += [
        Column("Mean confidence", numeric=True),
        Column("Right", numeric=True),
        Column("Difference", numeric=True),
    ]
    total = sum(found for *_, found, _, _ in bins)
    sure = sum(found * confidence for *_, found, confidence, _ in bins if found) / total
    right = sum(found * accuracy for *_, found, _, accuracy in bins if found) / total
    word = "overconfident" if sure - right > _OFF else "underconfident" if right - sure > _OFF else "well calibrated"
    description = f"Mean confidence {sure:.3f}, share of right predictions {right:.3f}: on the whole {word}."
    return charts.reliability_chart(bins, Table("Reliability, bin by bin", columns, rows), description)


# --- Data -------------------------------------------------------------------------------------------------------


def data(sources: Sources) -> Data:
    """What the model was made and measured with."""
    summary = sources.data
    splits: dict[str, dict[str, int]] = summary["splits"]
    with_masks = sources.evaluation.task == "segmentation"
    span = f", span {summary['span']}" if summary.get("span") else ""
    sentence = (
        f"{summary['examples']:,} pictures, {len(sources.evaluation.classes)} classes, {len(splits)} splits{span}."
    )
    return Data(
        sentence=sentence,
        classes=None if with_masks else _class_counts(sources.evaluation.classes, splits),
        splits=_split_table(splits, sources.sizes),
        duplicates=[_duplicate_sentence(kind, found) for kind, found in summary.get("duplicates", {}).items()],
        groups=_groups_table(sources.duplicates),
        quarantine=_quarantine_sentence(summary),
        refused=_refused_table(sources.quarantined, summary.get("quarantined", 0)),
        drift=_drift_sentence(sources.drift),
        drifted=list(sources.drift.get("found", [])),
    )


def _class_counts(classes: Sequence[str], splits: dict[str, dict[str, int]]) -> Table:
    columns = [
        Column("Class"),
        *[Column(split.capitalize(), numeric=True) for split in splits],
        Column("All", numeric=True),
    ]
    rows = []
    for name in classes:
        counts = [of.get(name, 0) for of in splits.values()]
        rows.append([Cell(name), *map(count, counts), count(sum(counts))])
    rows.sort(key=lambda row: row[-1].sort or 0.0)
    return Table("Pictures by class, the rarest first", columns, rows, sorted_by=len(columns) - 1)


def _split_table(splits: dict[str, dict[str, int]], sizes: Sequence[Sizes]) -> Table:
    by_split = {of.split: of for of in sizes}
    columns = [Column("Split"), Column("Pictures", numeric=True)]
    if sizes:
        columns += [Column("Width", numeric=True), Column("Height", numeric=True), Column("Formats")]
    rows = []
    for split, counts in splits.items():
        row = [Cell(split), count(sum(counts.values()))]
        if sizes:
            of = by_split.get(split)
            row += (
                [_range(of.widths), _range(of.heights)] if of else [Cell(NO_VALUE, math.nan), Cell(NO_VALUE, math.nan)]
            )
            row.append(Cell(", ".join(f"{name} {found:,}" for name, found in of.formats.items()) if of else NO_VALUE))
        rows.append(row)
    caption = "Pictures by split; sides in pixels, median and range" if sizes else "Pictures by split"
    return Table(caption, columns, rows)


def _range(bounds: tuple[float, float, float]) -> Cell:
    low, median, high = bounds
    return Cell(f"{median:g}", median, f"{low:g} to {high:g}" if low != high else "all")


def _duplicate_sentence(kind: str, found: dict[str, int]) -> str:
    what = "are exact copies of others" if kind == "exact" else "look like others"
    if not found["groups"]:
        return f"No pictures {what}."
    text = f"{found['copies']:,} pictures {what}, in {found['groups']:,} groups"
    if found["astride"]:
        text += (
            f"; {found['astride']:,} groups lie on two sides of the split, so that figures look better than they are"
        )
    return text + "."


def _groups_table(groups: Sequence[dict[str, Any]]) -> Table | None:
    if not groups:
        return None
    rows = [
        [
            Cell("exact copies" if group["kind"] == "exact" else "look alike"),
            Cell(", ".join(sorted({str(picture["split"]) or "left out" for picture in group["pictures"]}))),
            Cell(", ".join(str(picture["path"]) for picture in group["pictures"])),
        ]
        for group in groups[:_MOST_GROUPS]
    ]
    return Table(f"The first {len(rows)} groups", [Column("Kind"), Column("Splits"), Column("Pictures")], rows)


def _quarantine_sentence(summary: dict[str, Any]) -> str:
    quarantined = summary.get("quarantined", 0)
    if not quarantined:
        return "No file was refused."
    reasons = ", ".join(f"{reason}: {found:,}" for reason, found in summary.get("reasons", {}).items())
    return f"{quarantined:,} file{'s were' if quarantined > 1 else ' was'} refused ({reasons})."


def _refused_table(quarantined: Sequence[dict[str, str]], total: int) -> Table | None:
    if not quarantined:
        return None
    rows = [[Cell(record["path"]), Cell(record["reason"])] for record in quarantined[:_MOST_LISTED]]
    caption = "Refused files" if total <= len(rows) else f"The first {len(rows)} of {total:,} refused files"
    return Table(caption, [Column("File"), Column("Reason")], rows)


def _drift_sentence(drift: dict[str, Any]) -> str:
    span = drift.get("previous_span")
    if span is None:
        return ""
    found = drift.get("found", [])
    return f"Drift against span {span} was found and accepted." if found else f"No drift against span {span}."


# --- Training ---------------------------------------------------------------------------------------------------


def _figures(history: Sequence[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) if row.get(name) else math.nan for row in history]


def _main_of_training(history: Sequence[dict[str, str]]) -> str:
    return next((name for name in ("mean_iou", "accuracy", "pixel_accuracy") if history and name in history[0]), "")


def best_epoch(history: Sequence[dict[str, str]]) -> int | None:
    """The epoch, counted from 1, whose validation loss is lowest: its weights are the model's."""
    losses = [(loss, index) for index, loss in enumerate(_figures(history, "val_loss"), start=1) if math.isfinite(loss)]
    return min(losses)[1] if losses else None


def training_charts(history: Sequence[dict[str, str]]) -> list[Chart]:
    """Loss, main figure and learning rate over the epochs; the rate only where it changes."""
    if not history:
        return []
    epochs = range(1, len(history) + 1)
    phases = [row.get("phase", "") for row in history]
    dividers = [
        (epoch - 0.5, _PHASES.get(phases[epoch - 1], phases[epoch - 1]))
        for epoch in epochs
        if epoch > 1 and phases[epoch - 1] != phases[epoch - 2]
    ]
    best = best_epoch(history)
    result = []
    for name in filter(None, ("loss", _main_of_training(history))):
        train, validation = _figures(history, name), _figures(history, f"val_{name}")
        description = (
            f"{names.figure(name)} in {len(history)} epochs: training {_from_to(train)}, "
            f"validation {_from_to(validation)}."
        )
        if best:
            description += f" In the best epoch, {best}, validation has {validation[best - 1]:.4g}."
        result.append(
            charts.line_chart(
                name.replace("_", "-"),
                names.figure(name),
                description,
                x=epochs,
                curves={"Training": train, "Validation": validation},
                table=_curve_table(names.figure(name), {"Training": train, "Validation": validation}),
                dividers=dividers,
            )
        )
    rates = _figures(history, "learning_rate")
    known = [rate for rate in rates if math.isfinite(rate)]
    if len(set(known)) > 1:
        result.append(
            charts.line_chart(
                "learning-rate",
                "Learning rate",
                f"Learning rate at the end of each of {len(history)} epochs: {_from_to(rates)}.",
                x=epochs,
                curves={"Learning rate": rates},
                table=_curve_table("Learning rate", {"Learning rate": rates}),
                dividers=dividers,
                logarithmic=min(known) > 0 and max(known) / min(known) > 10,
            )
        )
    return result


def _from_to(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"from {known[0]:.4g} to {known[-1]:.4g}" if known else "not measured"


def _curve_table(name: str, curves: dict[str, list[float]]) -> Table:
    columns = [Column("Epoch", numeric=True), *[Column(curve, numeric=True) for curve in curves]]
    rows = [
        [Cell(str(epoch), epoch), *[_general(value) for value in values]]
        for epoch, values in enumerate(zip(*curves.values(), strict=True), start=1)
    ]
    return Table(f"{name}, epoch by epoch", columns, rows)


def _general(value: float) -> Cell:
    return Cell(NO_VALUE, math.nan, tone="soft") if math.isnan(value) else Cell(f"{value:.5g}", value)


def _training_sentence(history: Sequence[dict[str, str]]) -> str:
    if not history:
        return "There is no history of this training."
    seconds = sum(value for value in _figures(history, "seconds") if math.isfinite(value))
    text = f"{len(history)} epochs in {_duration(seconds)}" if seconds else f"{len(history)} epochs"
    if best := best_epoch(history):
        text += f"; the weights are those of epoch {best}, whose validation loss is lowest"
    rates = {rate for rate in _figures(history, "learning_rate") if math.isfinite(rate)}
    if len(rates) == 1:
        text += f"; the learning rate was {rates.pop():.4g} throughout"
    return text + "."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _epochs_table(history: Sequence[dict[str, str]]) -> Table:
    """The whole history, but for figures of single classes."""
    shown = [name for name in (history[0] if history else {}) if "/" not in name and name not in ("epoch", "phase")]
    columns = [Column("Epoch", numeric=True), Column("Phase")]
    columns += [Column(name.replace("_", " ").capitalize(), numeric=True) for name in shown]
    values = {name: _figures(history, name) for name in shown}
    rows = [
        [
            Cell(str(index + 1), index + 1),
            Cell(_PHASES.get(row.get("phase", ""), row.get("phase", "") or NO_VALUE)),
            *[_general(values[name][index]) for name in shown],
        ]
        for index, row in enumerate(history)
    ]
    return Table("All epochs", columns, rows)


def _tuned_table(tuned: dict[str, Any]) -> Table | None:
    if not tuned:
        return None
    rows = [
        [Cell(name), Cell(f"{value:g}" if isinstance(value, float) else str(value))] for name, value in tuned.items()
    ]
    return Table("What Tuner found", [Column("Field"), Column("Value")], rows)


def _trials_table(trials: Sequence[dict[str, str]]) -> Table | None:
    if not trials:
        return None
    rows = []
    for trial in sorted(trials, key=lambda trial: float(trial["rank"] or "inf")):
        rows.append([_trial_cell(value) for value in trial.values()])
    columns = [Column(name.replace("_", " ").capitalize(), numeric=True) for name in trials[0]]
    return Table("Trials of the search, the best first", columns, rows)


def _trial_cell(text: str) -> Cell:
    try:
        return _general(float(text))
    except ValueError:
        return Cell(text or NO_VALUE, math.nan)
