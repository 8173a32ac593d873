"""Compares the values of a model with the configured bounds. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from components.evaluator import chance
from components.evaluator.artifact import EvaluationResult, GateReport, GateResult, SliceMetrics
from components.evaluator.options import (
    SLICE_SETTINGS,
    Bounds,
    EvaluationOptions,
    bounds_by_class,
    bounds_of_slice,
    slice_names,
)
from trainer_module.evaluation.spec import MetricSpec

_ROUNDING = 1e-9  # 0.9 - 0.3 is a little more than 0.6


def apply_gates(
    evaluation: EvaluationResult,
    options: EvaluationOptions,
    rules: Iterable[GateResult] = (),
    not_comparable: str = "",
) -> GateReport:
    """Compares every value that has a bound.

    TFMA's own thresholds are not used: they support neither a smallest number of examples nor classes of a derived
    metric.

    Args:
      evaluation: Values of the new model and of the last blessed one, if there is one.
      options: From `EvaluationOptions.with_task_defaults`.
      rules: Results of the default rules (`default_rules.apply_rules`).
      not_comparable: Why there is no baseline although there is a blessed model, in one sentence.

    Returns:
      The results: the default rules, then the configured bounds in the order of the settings.
    """
    gates = _Gates(evaluation, options)
    results = (
        *rules,
        *gates.thresholds(),
        *gates.class_thresholds(),
        *gates.slice_thresholds(),
        *gates.slice_class_thresholds(),
        *gates.thresholds_of_absent_slices(),
        *gates.slice_gaps(),
        *gates.change_thresholds(),
        *gates.class_change_thresholds(),
    )
    warnings = chance.warnings(evaluation, options)
    return GateReport(
        has_baseline=evaluation.baseline is not None,
        comparison=evaluation.shared.sentence if evaluation.shared else not_comparable,
        results=results,
        warnings=warnings,
    )


@dataclass(frozen=True)
class _Subject:
    """A value that has a bound: of a metric, over a slice, perhaps of one class."""

    setting: str
    metric: MetricSpec
    metrics: SliceMetrics
    class_name: str | None = None

    @property
    def value(self) -> float:
        return self.metrics.value(self.metric.name, self.class_name)

    @property
    def limit_text(self) -> str:
        return "at least" if self.metric.higher_is_better else "at most"

    def worse_by(self, value: float, difference: float) -> float:
        """A value that is worse than another by a difference."""
        return value - difference if self.metric.higher_is_better else value + difference

    def not_compared(self, reason: str, bound: float = math.nan) -> GateResult:
        return self._result(bound, None, f"is not compared: {reason}")

    def compare(self, bound: float, requirement: str) -> GateResult:
        if math.isnan(self.value):
            # An undefined value reaches no bound.
            return self._result(bound, False, f"is undefined because {self.metric.undefined_when}; it {requirement}")
        missed_by = bound - self.value if self.metric.higher_is_better else self.value - bound
        return self._result(bound, missed_by <= _ROUNDING, f"is {self.value:.4f}; it {requirement}")

    def compare_with_threshold(self, bound: float) -> GateResult:
        return self.compare(bound, f"must be {self.limit_text} {bound:.4g}")

    def _result(self, bound: float, passed: bool | None, detail: str) -> GateResult:
        return GateResult(
            setting=f"evaluation.{self.setting}",
            metric=self.metric.name,
            title=self.metric.title,
            slice=self.metrics.name,
            class_name=self.class_name,
            value=self.value,
            bound=bound,
            higher_is_better=self.metric.higher_is_better,
            examples=self.metrics.examples,
            passed=passed,
            detail=detail,
        )


class _Gates:
    """One method per setting of `[evaluation]`."""

    def __init__(self, evaluation: EvaluationResult, options: EvaluationOptions) -> None:
        self._overall, *self._slices = evaluation.candidate
        self._corrupted = evaluation.corrupted
        self._baseline, self._compared = evaluation.baseline_overall, evaluation.compared[0]
        self._classes = evaluation.classes
        self._overall_metrics = {metric.name: metric for metric in evaluation.overall_metrics}
        self._class_metrics = {metric.name: metric for metric in evaluation.class_metrics}
        self._options = options

    def thresholds(self) -> Iterator[GateResult]:
        for name, bound in (self._options.thresholds or {}).items():
            subject = _Subject("thresholds", self._overall_metrics[name], self._overall)
            yield subject.compare_with_threshold(bound)

    def class_thresholds(self) -> Iterator[GateResult]:
        setting = "class_thresholds"
        for name, bound, class_name in bounds_by_class(self._options.class_thresholds, self._classes):
            subject = _Subject(setting, self._class_metrics[name], self._overall, class_name)
            yield subject.compare_with_threshold(bound)

    def slice_thresholds(self) -> Iterator[GateResult]:
        for metrics, name, bound in self._bounds_of_slices(self._options.slice_thresholds):
            yield self._compare_in_slice(_Subject("slice_thresholds", self._overall_metrics[name], metrics), bound)

    def slice_class_thresholds(self) -> Iterator[GateResult]:
        """One result for every class that is large enough in the slice, or why no class is compared."""
        least = self._options.min_slice_examples
        for metrics, name, bound in self._bounds_of_slices(self._options.slice_class_thresholds):
            whole = _Subject("slice_class_thresholds", self._class_metrics[name], metrics)
            reason = self._too_small(whole)
            large = [] if reason else metrics.large_classes(least)
            if not large:
                reason = reason or f"no class is in it {least} times (evaluation.min_slice_examples)"
                yield whole.not_compared(reason, bound)
            for class_name in large:
                yield self._compare_in_slice(replace(whole, class_name=class_name), bound)

    def _compare_in_slice(self, subject: _Subject, bound: float) -> GateResult:
        reason = self._exempt(subject)
        return subject.not_compared(reason, bound) if reason else subject.compare_with_threshold(bound)

    def _bounds_of_slices(self, bounds: Bounds) -> Iterator[tuple[SliceMetrics, str, float]]:
        """Yields (slice, metric, bound) of a setting."""
        # Bounds for all slices are not made for images of low quality: only those that name a corruption apply.
        named: Bounds = {name: entry for name, entry in bounds.items() if isinstance(entry, dict)}
        applicable = [(metrics, bounds) for metrics in self._slices] + [(metrics, named) for metrics in self._corrupted]
        for metrics, own_bounds in applicable:
            for name, bound in bounds_of_slice(own_bounds, metrics):
                yield metrics, name, bound

    def thresholds_of_absent_slices(self) -> Iterator[GateResult]:
        """Bounds of slices without examples are reported, so that a misspelled value is noticed."""
        known = {name for metrics in (*self._slices, *self._corrupted) for name in slice_names(metrics.key)}
        metrics_by_name = self._overall_metrics | self._class_metrics
        for setting in SLICE_SETTINGS:
            for name, entry in self._options.named_bounds()[setting].items():
                for slice_, bound in (entry if isinstance(entry, dict) else {}).items():
                    if slice_ not in known:
                        empty = SliceMetrics(name=slice_, examples=0, metrics={})
                        subject = _Subject(setting, metrics_by_name[name], empty)
                        yield subject.not_compared("the slice has no examples", bound)

    def slice_gaps(self) -> Iterator[GateResult]:
        """One result per metric, that of the worst slice of those that are large enough."""
        for name, allowed in self._options.slice_gaps.items():
            overall = _Subject("slice_gaps", self._overall_metrics[name], self._overall)
            bound = overall.worse_by(overall.value, allowed)
            subjects = [_Subject("slice_gaps", overall.metric, metrics) for metrics in self._slices]
            large = [subject for subject in subjects if not self._too_small(subject)]
            defined = [subject for subject in large if not math.isnan(subject.value)]
            if not large:
                reason = f"no slice has {self._options.min_slice_examples} examples"
                yield overall.not_compared(reason, bound)
            elif not defined:
                yield overall.not_compared(overall.metric.undefined_when, bound)
            else:
                worst = min(defined, key=lambda subject: subject.metric.worst_first(subject.value))
                yield worst.compare(
                    bound, f"may be at most {allowed:.4g} worse than the {overall.value:.4f} of all examples"
                )

    def change_thresholds(self) -> Iterator[GateResult]:
        for name, allowed in (self._options.change_thresholds or {}).items():
            yield self._compare_with_baseline(
                _Subject("change_thresholds", self._overall_metrics[name], self._compared), allowed
            )

    def class_change_thresholds(self) -> Iterator[GateResult]:
        setting = "class_change_thresholds"
        for name, allowed, class_name in bounds_by_class(self._options.class_change_thresholds, self._classes):
            subject = _Subject(setting, self._class_metrics[name], self._compared, class_name)
            yield self._compare_with_baseline(subject, allowed)

    def _compare_with_baseline(self, subject: _Subject, allowed: float) -> GateResult:
        if self._baseline is None:
            return subject.not_compared("there is no earlier blessed model")
        if subject.class_name is not None and subject.class_name not in self._baseline.class_metrics:
            return subject.not_compared("the last blessed model does not have the class")
        baseline = self._baseline.value(subject.metric.name, subject.class_name)
        if math.isnan(baseline):
            return subject.not_compared("its value for the last blessed model is undefined")
        requirement = f"may be at most {allowed:.4g} worse than the last blessed model's {baseline:.4f}"
        return subject.compare(subject.worse_by(baseline, allowed), requirement)

    def _exempt(self, subject: _Subject) -> str:
        """Why the bounds of slices do not apply to a slice; empty if they do."""
        if reason := self._too_small(subject):
            return reason
        # Unlike over all examples, an undefined value is not a fault of the model: the slice may have one class only.
        return subject.metric.undefined_when if math.isnan(subject.value) else ""

    def _too_small(self, subject: _Subject) -> str:
        count, least = subject.metrics.examples, self._options.min_slice_examples
        return f"{count} examples, fewer than evaluation.min_slice_examples = {least}" if count < least else ""
