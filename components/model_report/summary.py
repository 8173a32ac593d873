"""The summary at the top of the page: whether the model was pushed, why, and its most important numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from components.evaluator.artifact import ALL, GateResult
from components.model_report.sources import Sources
from components.model_report.tables import interval, number, signed


@dataclass(frozen=True)
class Fact:
    """One number of the summary."""

    label: str
    value: str
    note: str = ""
    title: str = ""  # tooltip of the label


@dataclass(frozen=True)
class RefusalReason:
    """Why a gate refused the model: the gate, what it checked, and the result."""

    gate: str
    subject: str
    text: str


@dataclass(frozen=True)
class PushDecision:
    """Whether the model was pushed, and why.

    Attributes:
      pushed: Whether Pusher pushed the model.
      headline: The decision in one line.
      sentence: Its consequence.
      baseline: The model that it was compared with, in one sentence.
      reasons: Why it was refused, the most serious first.
      facts: The most important numbers.
    """

    pushed: bool
    headline: str
    sentence: str
    baseline: str
    reasons: list[RefusalReason]
    facts: list[Fact]


def push_decision(sources: Sources) -> PushDecision:
    """Summarizes the results of all gates."""
    failures = sorted(sources.gates.failures, key=_severity)
    reasons = [
        RefusalReason("Evaluator", gate.subject[0].upper() + gate.subject[1:], _result(gate)) for gate in failures
    ]
    reasons += [
        RefusalReason("ServingValidator", check.name, check.detail) for check in sources.checks if not check.passed
    ]
    reasons += [
        RefusalReason("GradCam", "Faithfulness of the explanations", detail) for detail in sources.explanation_failures
    ]
    gates = (
        ("Evaluator", sources.blessed),
        ("ServingValidator", sources.servable),
        ("GradCam", not sources.explanation_failures),
    )
    refusing = [name for name, passed in gates if not passed]
    if sources.pushed is not None:
        headline = f"Pushed as version {sources.pushed.version}"
        sentence = f"All gates passed. The model is in {sources.pushed.destination}."
    elif refusing:
        headline = f"Refused by {' and '.join(refusing)}"
        sentence = "The model was not pushed. The previous version, if any, is still served."
        if not sources.blessed and not failures:
            text = "no threshold could be checked, and a model without a checked threshold is refused"
            reasons.insert(0, RefusalReason("Evaluator", "No checked threshold", text))
    else:
        headline, sentence = "Not pushed", "All gates passed, but Pusher did not push the model: see its log."
    return PushDecision(sources.pushed is not None, headline, sentence, _baseline(sources), reasons, _facts(sources))


def _baseline(sources: Sources) -> str:
    if not sources.gates.has_baseline:
        return sources.gates.comparison or "There is no blessed baseline to compare with: only fixed thresholds apply."
    description = f" ({sources.baseline})" if sources.baseline else ""
    if sources.gates.comparison:
        return sources.gates.comparison.replace("last blessed model", f"last blessed model{description}", 1)
    return f"Compared with the last blessed model{description}."


def _facts(sources: Sources) -> list[Fact]:
    evaluation = sources.evaluation
    overall, baseline, main = evaluation.overall, evaluation.baseline_overall, evaluation.main_metric
    value = overall.value(main.name)
    compared = evaluation.compared[0].value(main.name)
    notes = [text for text in (interval(overall.intervals.get(main.name)),) if text]
    if baseline:
        notes.append(f"{signed(compared - baseline.value(main.name))} compared with the baseline")
    facts = [Fact(main.heading, number(value).text, ", ".join(notes), main.description)]
    class_metric = evaluation.main_class_metric
    by_class = {name: overall.value(class_metric.name, name) for name in overall.class_metrics}
    worst = min(by_class, key=lambda name: (class_metric.worst_first(by_class[name]), name), default="")
    if worst and not math.isnan(by_class[worst]):
        title = class_metric.description
        facts.append(Fact(f"Weakest class: {worst}", number(by_class[worst]).text, class_metric.heading, title))
    checked = [result for result in sources.gates.results if result.passed is not None]
    passed = sum(bool(result.passed) for result in checked)
    facts.append(
        Fact("Rules and thresholds passed", f"{passed} of {len(checked)}", "fixed, and relative to the baseline")
    )
    passed = sum(bool(check.passed) for check in sources.checks)
    facts.append(Fact("Serving checks passed", f"{passed} of {len(sources.checks)}", "of the exported model"))
    return facts


def _result(gate: GateResult) -> str:
    if math.isnan(gate.missed_by) or not gate.missed_by:
        return gate.detail  # undefined, or refused by a statistical test
    return f"{gate.detail} (missed by {gate.missed_by:.4f})"


def _severity(gate: GateResult) -> tuple[float, float]:
    """All examples before slices and classes, then the largest distance from the bound."""
    narrow = (gate.slice != ALL) + (gate.class_name is not None)
    return narrow, -gate.missed_by if not math.isnan(gate.missed_by) else -math.inf
