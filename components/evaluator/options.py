"""`[evaluation]`: what is measured, for whom, and what a model must reach. Imports nothing heavy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, field_validator

from components.evaluator import metric_names
from components.evaluator.figures import ALL
from trainer_module.error_text import did_you_mean
from trainer_module.section import Section

# A bound for every class (or slice), or for some by name.
Bounds = dict[str, float | dict[str, float]]

LABEL_GROUP = "label_group"  # the name of the slices that label_groups makes

Slice = str | tuple[str, str]


class EvaluationOptions(Section):
    """`[evaluation]`: what is measured, for whom, and what a model must reach."""

    slices: tuple[Slice, ...] | None = Field(
        default=None,
        description='Names of slices, and pairs of them for crosses (["brightness", "camera"]); all built-in ones, all '
        "metadata columns and the label groups when absent.",
    )
    label_groups: dict[str, tuple[str, ...]] = Field(
        default={},
        description="Groups of classes that are slices of their own: name → classes. With masks, of the pictures that "
        "show one of them.",
    )
    top_k: int = Field(default=3, ge=2, le=1000, description="The k of top_k_accuracy, named as in `top_3_accuracy`.")
    confidence_intervals: Literal["none", "jackknife", "bootstrap"] = Field(
        default="none",
        description="Intervals at a level of 0.95 for every figure, from TFMA's 20 samples. Bounds are compared with "
        "the figures themselves.",
    )
    thresholds: dict[str, float] | None = Field(
        default=None,
        description="Bound on a figure of the whole evaluation split; accuracy = 0.5 when absent, with masks "
        "mean_iou = 0.3.",
    )
    change_thresholds: dict[str, float] | None = Field(
        default=None,
        description="How much worse than the last blessed model a figure may be; accuracy = 0.02 when absent, with "
        "masks mean_iou = 0.02.",
    )
    class_thresholds: Bounds = Field(
        default={}, description="Bound on a figure of every class, or of some: recall = 0.5, or recall = {cat = 0.8}."
    )
    class_change_thresholds: Bounds = Field(
        default={},
        description="How much worse than the last blessed model's a figure of every class, or of some, may be.",
    )
    slice_thresholds: Bounds = Field(
        default={},
        description="Bound on a figure of every slice, or of some: accuracy = 0.5, or accuracy = {brightness = 0.4} "
        'for all values of one, or {"brightness = dark" = 0.4}.',
    )
    slice_gaps: dict[str, float] = Field(
        default={}, description="How much worse than the overall figure that of the worst slice may be."
    )
    min_slice_examples: int = Field(
        default=30, ge=1, description="A slice of fewer examples is measured and shown, and not held against anything."
    )

    @field_validator("label_groups")
    @classmethod
    def _groups_have_classes(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, classes in value.items():
            if not name or not classes:
                raise ValueError(f"the group `{name}` needs a name and at least one class")
        return value

    def of_task(self, task: str) -> EvaluationOptions:
        """The same with the task's bounds where none are given."""
        values = {}
        for key, defaults in (
            ("thresholds", metric_names.DEFAULT_THRESHOLDS),
            ("change_thresholds", metric_names.DEFAULT_CHANGE_THRESHOLDS),
        ):
            if getattr(self, key) is None:
                values[key] = defaults[task]
        return self.model_copy(update=values)

    def measured_slices(self, columns: Sequence[str]) -> tuple[Slice, ...]:
        """The slices that are asked for, or all there are.

        Args:
          columns: Names of the slices that the data have.
        """
        if self.slices is not None:
            return self.slices
        return (*columns, LABEL_GROUP) if self.label_groups else tuple(columns)

    def overall_rules(self) -> dict[str, Mapping[str, float]]:
        """The rules whose bounds are on figures of all examples or of slices, by key."""
        return {
            "thresholds": self.thresholds or {},
            "change_thresholds": self.change_thresholds or {},
            "slice_gaps": self.slice_gaps,
        }

    def bound_rules(self) -> dict[str, Bounds]:
        """The rules that hold for every class or slice, or for some, by key."""
        return {
            "class_thresholds": self.class_thresholds,
            "class_change_thresholds": self.class_change_thresholds,
            "slice_thresholds": self.slice_thresholds,
        }


def slice_name(key: Sequence[tuple[str, str]]) -> str:
    """What people call a slice: `brightness = dark`, `brightness = dark, camera = b`, or `all`."""
    return ", ".join(f"{feature} = {value}" for feature, value in key) or ALL


def names_of(key: Sequence[tuple[str, str]]) -> list[str]:
    """What a rule may call a slice, the most special first: by its values, or by its features, in any order."""
    orders = list(itertools.permutations(key))
    return [slice_name(order) for order in orders] + [", ".join(feature for feature, _ in order) for order in orders]


def could_name(name: str, slices: Sequence[Slice]) -> bool:
    """Whether some slice of these could be called so; which values there are, only the examples say."""
    for entry in slices:
        for features in itertools.permutations((entry,) if isinstance(entry, str) else entry):
            valued = ", ".join(f"{re.escape(feature)} = .+" for feature in features)
            if name == ", ".join(features) or re.fullmatch(valued, name, re.DOTALL):
                return True
    return False


def check(options: EvaluationOptions, task: str) -> None:
    """Compares the bounds with what is measured.

    Args:
      options: With the defaults of the task (`of_task`).
      task: `classification` or `segmentation`.

    Raises:
      ValueError: If a rule names an unknown figure or an impossible bound, or if nothing is asked of a model.
    """
    overall = metric_names.overall(task, options.top_k)
    per_class = metric_names.PER_CLASS[task]
    for rule, bounds in options.overall_rules().items():
        for metric, bound in bounds.items():
            _check_bound(f"evaluation.{rule}", metric, bound, overall, task)
    for rule, by_metric in options.bound_rules().items():
        known = per_class if rule.startswith("class") else overall
        for metric, said in by_metric.items():
            if said == {}:
                raise ValueError(f"evaluation.{rule}: `{metric}` is given an empty table, which demands nothing")
            for bound in said.values() if isinstance(said, dict) else [said]:
                _check_bound(f"evaluation.{rule}", metric, bound, known, task)
    if not options.thresholds:
        raise ValueError(
            "evaluation.thresholds: at least one is needed: without one any first model would be blessed and pushed"
        )


def _check_bound(rule: str, metric: str, bound: float, known: tuple[str, ...], task: str) -> None:
    if metric not in known:
        raise ValueError(
            f"{rule}: {task} has no `{metric}`{did_you_mean(metric, known) or '. It has: ' + ', '.join(known) + '.'}"
        )
    if bound < 0 or (bound > 1 and metric != metric_names.UNBOUNDED):
        allowed = "0 or more" if metric == metric_names.UNBOUNDED else "between 0 and 1"
        raise ValueError(f"{rule}: `{metric}` must be {allowed}, not {bound:g}")
