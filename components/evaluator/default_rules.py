"""The default rules: they refuse models that have learned nothing. Pure functions; imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.evaluator.artifact import ALL, EvaluationResult, GateResult
from trainer_module import tasks
from trainer_module.error_text import listed
from trainer_module.evaluation.baselines import CORRECT, LEVEL, OCCURRING, PREDICTED, Evidence
from trainer_module.evaluation.spec import IMAGES

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import statistics_pb2

IN_TRAIN, CLASSES_PREDICTED, CLASSES_CORRECT = "classes_in_train", "classes_predicted", "classes_correct"

_CLASS_RULES = {
    IN_TRAIN: "Every class occurs in the train split.",
    CLASSES_PREDICTED: "Every class of the evaluated split is predicted at least once.",
    CLASSES_CORRECT: "Every class of the evaluated split is predicted correctly at least once.",
}


def descriptions(task: str) -> dict[str, str]:
    """Returns the default rules of a task: name → the rule in one sentence."""
    baselines = tasks.get(task).evaluation.constant_baselines
    return {baseline.rule: baseline.description for baseline in baselines} | _CLASS_RULES


def rule_names(task: str) -> tuple[str, ...]:
    """Returns the names of the default rules of a task."""
    return tuple(descriptions(task))


def class_counts(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, class_features: Sequence[str]
) -> dict[str, int]:
    """Reads how often every class occurs in a split.

    Args:
      statistics: Of the examples of the split.
      class_features: Features that contain class names.
    """
    counts: dict[str, int] = {}
    for feature in statistics.datasets[0].features:
        if feature.path.step[0] in class_features:
            for bucket in feature.string_stats.rank_histogram.buckets:
                counts[bucket.label] = counts.get(bucket.label, 0) + round(bucket.sample_count)
    return counts


def apply_rules(
    evaluation: EvaluationResult,
    evidence: Evidence,
    train_counts: Mapping[str, int],
    disabled: Sequence[str],
    ignore_id: int | None = None,
) -> tuple[GateResult, ...]:
    """Applies the default rules.

    Args:
      evaluation: Values of the new model.
      evidence: Its counts over all examples, from `Evaluation.evidence`.
      train_counts: Class → how often it occurs in the train split; classes that do not may be absent.
      disabled: Names of the rules that are not applied.
      ignore_id: Id of what is not evaluated; if it is that of a class, the class need not occur.

    Returns:
      The results, at least one per rule.
    """
    rules = _Rules(evaluation, evidence, train_counts, ignore_id)
    results: list[GateResult] = []
    for name in rule_names(evaluation.task):
        results += [rules.not_applied(name)] if name in disabled else rules.apply(name)
    return tuple(results)


class _Rules:
    """One method per kind of rule."""

    def __init__(
        self,
        evaluation: EvaluationResult,
        evidence: Evidence,
        train_counts: Mapping[str, int],
        ignore_id: int | None,
    ) -> None:
        self._evaluation, self._evidence, self._train_counts = evaluation, evidence, train_counts
        self._classes = evaluation.classes
        self._counted = [name for index, name in enumerate(evaluation.classes) if index != ignore_id]
        self._baselines = {
            baseline.rule: baseline for baseline in tasks.get(evaluation.task).evaluation.constant_baselines
        }

    def not_applied(self, rule: str) -> GateResult:
        return self._result(rule, f"rule {rule}", None, "is disabled by evaluation.disabled_rules")

    def apply(self, rule: str) -> Iterator[GateResult]:
        if rule in self._baselines:
            yield self._compare_with_baseline(rule)
        elif rule == IN_TRAIN:
            yield self._occur_in_train()
        elif rule == CLASSES_PREDICTED:
            yield from self._occur_among(rule, PREDICTED, "predicted classes")
        else:
            yield from self._occur_among(rule, CORRECT, "correctly predicted classes")

    def _compare_with_baseline(self, rule: str) -> GateResult:
        result = self._baselines[rule].compare(self._evidence, self._classes)
        return self._result(rule, result.score, result.passed, result.detail, result.value, result.bound)

    def _occur_in_train(self) -> GateResult:
        absent = [name for name in self._counted if not self._train_counts.get(name)]
        unit = self._evaluation.count_unit
        return self._classes_result(IN_TRAIN, "classes in the train split", len(self._counted), absent, f"no {unit}")

    def _occur_among(self, rule: str, key: str, title: str) -> Iterator[GateResult]:
        """Compares the classes of the evaluated split; those that tell nothing have a result of their own."""
        fault = f"no {'correct ' if key == CORRECT else ''}prediction"
        occurring = self._evidence[OCCURRING]
        compared: list[int] = np.flatnonzero(occurring).tolist()
        missing = [index for index in compared if not self._evidence[key][index]]
        explained = bool(missing) and not self._too_many(missing)
        skipped = set(missing) if explained else set()
        if len(compared) > len(skipped):
            names = [] if explained else [self._classes[index] for index in missing]
            yield self._classes_result(rule, title, len(compared) - len(skipped), names, fault)
        reasons = []
        counts = zip(self._classes, occurring, strict=True)
        if absent := [name for name, count in counts if not count and name in self._counted]:
            reasons.append(f"{_with_verb(absent)} no {self._evaluation.count_unit}")
        if explained:
            names = [self._classes[index] for index in missing]
            most = max(occurring[index] for index in missing)
            reasons.append(f"{_with_verb(names)} {fault}, but at most {most:,} {IMAGES}, too few to blame the model")
        if reasons:
            split = self._evaluation.split
            yield self._result(rule, title, None, f"are not compared in the {split} split: {'; '.join(reasons)}")

    def _too_many(self, missing: Sequence[int]) -> bool:
        """Whether classes are missing that a model would find which is as good as this one for the other classes.

        Its recall is that of the classes that are correct at least once. The m largest missing classes, of K, have N
        images; with that recall the probability that any m classes are missed is at most binomial(K, m) (1 - recall)^N.
        """
        occurring, correct = self._evidence[OCCURRING], self._evidence[CORRECT]
        known = correct > 0
        if not known.any():
            return True
        # Laplace's rule of succession: a recall of 1 on few images is not certain.
        recall = (correct[known].sum() + 1) / (occurring[known].sum() + 2)
        num_classes = int(np.count_nonzero(occurring))
        sizes = np.cumsum(sorted((occurring[index] for index in missing), reverse=True))
        return any(
            _log_binomial(num_classes, count) + images * math.log1p(-recall) <= math.log(LEVEL)
            for count, images in enumerate(sizes, start=1)
        )

    def _classes_result(self, rule: str, title: str, compared: int, faulty: Sequence[str], fault: str) -> GateResult:
        number = compared - len(faulty)
        detail = f"are {number:,} of {compared:,}" + (f": {_with_verb(faulty)} {fault}" if faulty else "")
        return self._result(rule, title, not faulty, detail, number, compared)

    def _result(
        self,
        rule: str,
        title: str,
        passed: bool | None,
        detail: str,
        value: float = math.nan,
        bound: float = math.nan,
    ) -> GateResult:
        return GateResult(
            setting="evaluation.disabled_rules",
            rule=rule,
            metric=rule,
            title=title,
            slice=ALL,
            value=value,
            bound=bound,
            higher_is_better=True,
            examples=self._evaluation.overall.examples,
            passed=passed,
            detail=detail,
        )


def _log_binomial(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def _with_verb(names: Sequence[str]) -> str:
    """The names and the verb: "`cat` has", "`cat`, `dog` have"."""
    return f"{listed(names)} {'has' if len(names) == 1 else 'have'}"
