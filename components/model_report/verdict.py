"""Whether the model went out, why, and what every gate said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from components.evaluator.artifact import ALL, EvaluationResult, GateResult
from components.model_report import names
from components.model_report.sources import Sources
from components.model_report.tables import NO_VALUE, Cell, Column, Table, at_most, count, interval, number, signed

_MOST_RULES = 300


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


def judge(sources: Sources) -> Verdict:
    """Pushed or refused, why, and against what."""
    failures = sorted(sources.gates.failures, key=_severity)
    reasons = [Reason("Evaluator", names.heading(gate.subject), _judgement(gate)) for gate in failures]
    reasons += [
        Reason("ServingValidator", str(check["name"]), str(check["detail"]))
        for check in sources.checks
        if not check["passed"]
    ]
    reasons += [Reason("GradCam", "Faithfulness of the explanations", detail) for detail in sources.unfaithful]
    if sources.pushed is not None:
        headline = f"Pushed as version {sources.pushed.version}"
        sentence = f"Every gate agreed. The model is in {sources.pushed.destination}."
    elif not sources.blessed or not sources.servable or sources.unfaithful:
        verdicts = (
            ("Evaluator", sources.blessed),
            ("ServingValidator", sources.servable),
            ("GradCam", not sources.unfaithful),
        )
        who = [name for name, agreed in verdicts if not agreed]
        headline = f"Refused by {' and '.join(who)}"
        sentence = "Nothing was pushed; the version before, if any, is still served."
        if not sources.blessed and not failures:
            nothing = "could be held against anything, and what is not measured may not go out"
            reasons.insert(0, Reason("Evaluator", "No rule", nothing))
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
    baseline = evaluation.baseline_overall
    main = evaluation.main_metric
    value = overall.value(main.name)
    notes = [text for text in (interval(overall.intervals.get(main.name)),) if text]
    if baseline and not math.isnan(baseline.value(main.name)):
        notes.append(f"{signed(value - baseline.value(main.name))} against the model before")
    facts = [Fact(main.heading, number(value).text, ", ".join(notes))]
    worst = _worst(evaluation)
    if worst:
        facts.append(Fact(f"Weakest class: {worst[0]}", number(worst[1]).text, evaluation.main_class_metric.heading))
    held = [gate for gate in sources.gates.results if gate.passed is not None]
    passed = sum(bool(gate.passed) for gate in held)
    facts.append(Fact("Rules kept", f"{passed} of {len(held)}", "thresholds and comparisons"))
    good = sum(bool(check["passed"]) for check in sources.checks)
    facts.append(Fact("Serving checks", f"{good} of {len(sources.checks)}", "the export, in a session"))
    return facts


def _worst(evaluation: EvaluationResult) -> tuple[str, float] | None:
    main = evaluation.main_class_metric
    values = [(name, evaluation.overall.value(main.name, name)) for name in evaluation.classes]
    defined = [(name, value) for name, value in values if not math.isnan(value)]
    return min(defined, key=lambda item: main.worst_first(item[1]), default=None)


def _judgement(gate: GateResult) -> str:
    if math.isnan(gate.missed_by):
        return gate.detail
    return f"{gate.detail} (missed by {gate.missed_by:.4f})"


def _severity(gate: GateResult) -> tuple[float, float]:
    """All examples before slices and classes, then the farthest from its bound."""
    narrow = (gate.slice != ALL) + (gate.class_name is not None)
    return narrow, -gate.missed_by if not math.isnan(gate.missed_by) else -math.inf


def rules_table(gates: Sequence[GateResult]) -> Table:
    """Every rule on every figure: what failed first, then what was not held against anything, then the narrowest."""
    words = {
        True: Cell("✓ kept", 2.0, tone="good"),
        False: Cell("✗ broken", 0.0, tone="bad"),
        None: Cell("· not held", 1.0, tone="soft"),
    }

    def order(gate: GateResult) -> tuple[float, float]:
        margin = abs(gate.value - gate.bound)
        distance = -margin if gate.passed is False else margin
        return words[gate.passed].sort or 0.0, math.inf if math.isnan(distance) else distance

    rows = [
        [
            Cell(names.heading(gate.title), note=gate.class_name or ""),
            Cell("all examples" if gate.slice == ALL else gate.slice),
            words[gate.passed],
            number(gate.value),
            Cell(NO_VALUE, math.nan, tone="soft")
            if math.isnan(gate.bound)
            else Cell(f"{'≥' if gate.higher_is_better else '≤'} {gate.bound:.4f}", gate.bound),
            count(gate.examples),
            Cell(gate.setting, note=gate.detail),
        ]
        for gate in sorted(gates, key=order)
    ]
    columns = [
        Column("Figure"),
        Column("Where"),
        Column("Verdict"),
        Column("Value", numeric=True),
        Column("Asked", numeric=True),
        Column("Examples", numeric=True),
        Column("Rule"),
    ]
    rows, caption = at_most(rows, _MOST_RULES, "Every rule on every figure, the broken ones first")
    return Table(caption, columns, rows)


def checks_table(checks: Iterable[dict[str, Any]]) -> Table:
    """Every question to the export, those first that it failed."""
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
