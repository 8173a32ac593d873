"""`[evaluation]`: slices, and the bounds that a model must reach. Imports nothing heavy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator

from components.evaluator import corruptions
from components.evaluator.artifact import ALL, SliceMetrics
from components.evaluator.default_rules import rule_names
from trainer_module import tasks
from trainer_module.error_text import did_you_mean
from trainer_module.evaluation.spec import MetricSpec, in_scope
from trainer_module.section import Section

# A bound for all classes (or slices), or for some by name.
Bounds = dict[str, float | dict[str, float]]

Slice = str | tuple[str, str]

LABEL_GROUP = "label_group"  # the slice feature that `label_groups` defines
# The slice features that `corruptions` defines, and the slices that they form.
CORRUPTION, SEVERITY = "corruption", "severity"
CORRUPTION_SLICES: tuple[Slice, ...] = (CORRUPTION, (CORRUPTION, SEVERITY))


class EvaluationOptions(Section):
    """`[evaluation]`: slices, and the bounds that a model must reach."""

    slices: tuple[Slice, ...] | None = Field(
        default=None,
        description='Names of slices, and pairs of them for crosses (["brightness", "camera"]). If absent, all '
        "built-in ones, all metadata columns and the label groups.",
    )
    label_groups: dict[str, tuple[str, ...]] = Field(
        default={},
        description="Groups of classes that form additional slices: name → classes. An image with a mask belongs to "
        "the groups of all classes that it contains.",
    )
    corruptions: tuple[str, ...] = Field(
        default=(),
        description="The split is also evaluated with images of lower quality, five severities each: "
        f"{', '.join(f'`{name}`' for name in corruptions.NAMES)}. Each costs as much as five evaluations.",
    )
    top_k: int = Field(default=3, ge=2, le=1000, description="The k of top_k_accuracy, named as in `top_3_accuracy`.")
    confidence_intervals: Literal["none", "jackknife", "bootstrap"] = Field(
        default="none",
        description="Method of the intervals of all metrics, at a confidence level of 0.95, from 20 samples of TFMA. "
        "Bounds are compared with the values, not with the intervals.",
    )
    thresholds: dict[str, float] | None = Field(
        default=None,
        description="Bounds of metrics over all examples of the split. If absent, the defaults of the task: "
        "accuracy = 0.5 for classification, mean_iou = 0.3 for segmentation.",
    )
    change_thresholds: dict[str, float] | None = Field(
        default=None,
        description="How much worse than the last blessed model a metric may be. If absent, the defaults of the task: "
        "accuracy = 0.02 for classification, mean_iou = 0.02 for segmentation.",
    )
    class_thresholds: Bounds = Field(
        default={},
        description="Bounds of metrics of all classes, or of some: recall = 0.5, or recall = {cat = 0.8}.",
    )
    class_change_thresholds: Bounds = Field(
        default={},
        description="How much worse than the last blessed model a metric of all classes, or of some, may be.",
    )
    slice_thresholds: Bounds = Field(
        default={},
        description="Bounds of metrics of all slices, or of some: accuracy = 0.5, or accuracy = {brightness = 0.4} for "
        'all values of one, or {"brightness = dark" = 0.4}.',
    )
    slice_class_thresholds: Bounds = Field(
        default={},
        description="Bounds of metrics of all classes in all slices, or in some, named as in slice_thresholds: "
        "recall = 0.5, or recall = {camera = 0.4}. A class needs min_slice_examples in the slice.",
    )
    slice_gaps: dict[str, float] = Field(
        default={}, description="How much worse than over all examples a metric of the worst slice may be."
    )
    min_slice_examples: int = Field(
        default=30, ge=1, description="Smallest slice that bounds apply to; smaller ones are evaluated and shown."
    )

    disabled_rules: tuple[str, ...] = Field(
        default=(),
        description="Default rules that are not applied: `beats_constant`, `beats_chance`, `classes_in_train`, "
        "`classes_predicted`, `classes_correct`.",
    )

    @field_validator("corruptions")
    @classmethod
    def _corruptions_exist(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in corruptions.NAMES:
                suggestion = did_you_mean(name, corruptions.NAMES) or f"; known: {', '.join(corruptions.NAMES)}"
                raise ValueError(f"unknown corruption `{name}`{suggestion}")
        if len(set(value)) < len(value):
            raise ValueError("a corruption is listed twice: remove one")
        return value

    @field_validator("label_groups")
    @classmethod
    def _groups_have_classes(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, classes in value.items():
            if not name or not classes:
                raise ValueError(f"the group `{name}` needs a name and at least one class")
        return value

    def with_task_defaults(self, task: str) -> EvaluationOptions:
        """Returns the same options, with the default bounds of the task's metrics where none are configured."""
        metrics = tasks.get(task).evaluation.metrics(self.top_k)
        values = {}
        for key in ("thresholds", "change_thresholds"):
            if getattr(self, key) is None:
                defaults = {metric.name: getattr(metric, key.removesuffix("s")) for metric in metrics}
                values[key] = {name: bound for name, bound in defaults.items() if bound is not None}
        return self.model_copy(update=values)

    def evaluated_slices(self, columns: Sequence[str]) -> tuple[Slice, ...]:
        """Returns the configured slices, or all that exist.

        Args:
          columns: Names of the slices of the dataset.
        """
        if self.slices is not None:
            return self.slices
        return (*columns, LABEL_GROUP) if self.label_groups else tuple(columns)

    def corruption_slices(self) -> tuple[Slice, ...]:
        """Returns the slices of corrupted images."""
        return CORRUPTION_SLICES if self.corruptions else ()

    def overall_bounds(self) -> dict[str, Mapping[str, float]]:
        """The settings with one bound per metric, by key."""
        return {
            "thresholds": self.thresholds or {},
            "change_thresholds": self.change_thresholds or {},
            "slice_gaps": self.slice_gaps,
        }

    def named_bounds(self) -> dict[str, Bounds]:
        """The settings whose bounds apply to all classes or slices, or to some by name, by key."""
        return {
            "class_thresholds": self.class_thresholds,
            "class_change_thresholds": self.class_change_thresholds,
            "slice_thresholds": self.slice_thresholds,
            "slice_class_thresholds": self.slice_class_thresholds,
        }


# The settings whose bounds apply to some slices by name; those of the others apply to some classes.
SLICE_SETTINGS = ("slice_thresholds", "slice_class_thresholds")


def slice_name(key: Sequence[tuple[str, str]]) -> str:
    """Returns the name of a slice: `brightness = dark`, `brightness = dark, camera = b`, or `all`."""
    return ", ".join(f"{feature} = {value}" for feature, value in key) or ALL


def slice_names(key: Sequence[tuple[str, str]]) -> list[str]:
    """Returns all names that settings may use for a slice, the most specific first: with values, or features only."""
    orders = list(itertools.permutations(key))
    return [slice_name(order) for order in orders] + [", ".join(feature for feature, _ in order) for order in orders]


def may_name(name: str, slices: Sequence[Slice]) -> bool:
    """Whether a name can denote one of these slices; only the examples tell which values exist."""
    for entry in slices:
        for features in itertools.permutations((entry,) if isinstance(entry, str) else entry):
            valued = ", ".join(f"{re.escape(feature)} = .+" for feature in features)
            if name == ", ".join(features) or re.fullmatch(valued, name, re.DOTALL):
                return True
    return False


def bounds_by_class(bounds: Bounds, classes: Iterable[str]) -> Iterator[tuple[str, float, str]]:
    """Yields (metric, bound, class) of a setting that applies to all classes, or to those that it names."""
    for metric, entry in bounds.items():
        by_class = entry if isinstance(entry, dict) else dict.fromkeys(classes, entry)
        for name in classes:
            if name in by_class:
                yield metric, by_class[name], name


def bounds_of_slice(bounds: Bounds, metrics: SliceMetrics) -> Iterator[tuple[str, float]]:
    """Yields (metric, bound) for a slice: by its name, by that of its features, or for all slices."""
    for metric, entry in bounds.items():
        if not isinstance(entry, dict):
            yield metric, entry
        elif name := next((name for name in slice_names(metrics.key) if name in entry), None):
            yield metric, entry[name]


def check_bounds(options: EvaluationOptions, task: str) -> None:
    """Compares the configured bounds with the metrics of the task.

    Args:
      options: From `with_task_defaults`.
      task: Name of the task.

    Raises:
      ValueError: If a setting names an unknown metric or an impossible bound, or if there are no thresholds at all.
    """
    metrics = tasks.get(task).evaluation.metrics(options.top_k)
    for setting, bounds in options.overall_bounds().items():
        for name, bound in bounds.items():
            _check_bound(setting, name, bound, in_scope(metrics, "overall"), task)
    for setting, bounds_by_metric in options.named_bounds().items():
        known = in_scope(metrics, "per_class" if "class" in setting else "overall")
        for name, entry in bounds_by_metric.items():
            if entry == {}:
                raise ValueError(f"evaluation.{setting}: the table of `{name}` is empty")
            for bound in entry.values() if isinstance(entry, dict) else [entry]:
                _check_bound(setting, name, bound, known, task)
    for name in options.disabled_rules:
        if name not in rule_names(task):
            suggestion = did_you_mean(name, rule_names(task)) or f". They are: {', '.join(rule_names(task))}."
            raise ValueError(f"evaluation.disabled_rules: {task} has no default rule `{name}`{suggestion}")
    if not options.thresholds:
        raise ValueError(
            "evaluation.thresholds: at least one is required; without it, any first model would be blessed and pushed"
        )


def _check_bound(setting: str, name: str, bound: float, known: Sequence[MetricSpec], task: str) -> None:
    metrics = {metric.name: metric for metric in known}
    if name not in metrics:
        suggestion = did_you_mean(name, metrics) or f". It has: {', '.join(metrics)}."
        raise ValueError(f"evaluation.{setting}: {task} has no metric `{name}`{suggestion}")
    metric = metrics[name]
    # Gaps and change thresholds are differences of two values.
    is_difference = setting == "slice_gaps" or setting.endswith("change_thresholds")
    allows, range_text = (
        (metric.allows_change, metric.change_range_text) if is_difference else (metric.allows, metric.range_text)
    )
    if not allows(bound):
        raise ValueError(f"evaluation.{setting}: `{name}` must be {range_text}, not {bound:g}")
