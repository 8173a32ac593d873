"""The contents of a run's artifacts: everything that the report is made from."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from components.data_audit.artifact import Audit
from components.evaluator.artifact import EvaluationResult, GateReport
from components.example_validator.artifact import DriftReport
from components.image_example_gen.artifact import Correction, DuplicateGroup, QuarantinedFile, Summary
from components.model_report.comparisons import ComparedExample
from components.model_report.explanations import ExplainedExample
from components.model_report.label_statistics import SplitLabels
from components.serving_validator.artifact import ServingCheck


@dataclass(frozen=True)
class ImageSizes:
    """Sizes and formats of the images of a split, before resizing.

    Attributes:
      split: Name of the split.
      widths: Smallest, median and largest, pixels.
      heights: The same.
      formats: Format → number of images.
    """

    split: str
    widths: tuple[float, float, float]
    heights: tuple[float, float, float]
    formats: dict[str, int]


@dataclass(frozen=True)
class Push:
    """Destination of a pushed model."""

    version: str
    destination: str


@dataclass(frozen=True)
class Sources:
    """The contents of a run's artifacts.

    Attributes:
      name: Name of the served model.
      evaluation: The metrics.
      gates: Results of the Evaluator's thresholds.
      blessed: Whether the Evaluator blessed the model.
      checks: The serving checks.
      servable: Whether ServingValidator blessed the model.
      pushed: None if the model was not pushed.
      baseline: Description of the model that it was compared with; empty if there was none.
      history: Rows of `history.csv`.
      kept_epoch: `training.kept_epoch`: `best` or `last`.
      tuned: Values that Tuner chose: name of the setting → value.
      trials: Rows of `trials.csv`, if Tuner ran.
      data: ImageExampleGen's summary.
      audit: DataAudit's result, with as many suspects as are shown; None if it did not run.
      drift: Drift from the previous span, and skew between splits.
      sizes: Per split.
      labels: Statistics of the labels per split, if the task has any.
      quarantined: Refused files, as many as are listed.
      duplicates: Groups of duplicates, as many as are listed.
      corrections: Images that `data.corrections` decides about, as many as are listed.
      explained: Whether the report shows GradCam's overlays.
      explanation_failures: Why GradCam's gate refuses the model, one line each.
      incorrect: The most confident incorrect predictions, the most confident first.
      correct: The most confident correct predictions.
      color_scale: Colours of the heat maps in CSS, from no evidence to most.
      compared: The examples with the worst predictions, the worst first.
      comparison_note: What the drawings of these examples show.
      legend: Class → colour in CSS.
      lineage: What the model was made from: name → value.
      versions: Package → version.
      configuration: The complete configuration as TOML.
      created: Time of the report.
    """

    name: str
    evaluation: EvaluationResult
    gates: GateReport
    blessed: bool
    checks: Sequence[ServingCheck]
    servable: bool
    pushed: Push | None
    baseline: str
    history: list[dict[str, str]]
    data: Summary
    drift: DriftReport
    configuration: str
    created: datetime.datetime
    kept_epoch: str = "best"
    tuned: dict[str, Any] = field(default_factory=dict)
    trials: list[dict[str, str]] = field(default_factory=list)
    sizes: list[ImageSizes] = field(default_factory=list)
    labels: list[SplitLabels] = field(default_factory=list)
    quarantined: Sequence[QuarantinedFile] = ()
    duplicates: Sequence[DuplicateGroup] = ()
    corrections: Sequence[Correction] = ()
    audit: Audit | None = None
    explained: bool = False
    explanation_failures: list[str] = field(default_factory=list)
    incorrect: list[ExplainedExample] = field(default_factory=list)
    correct: list[ExplainedExample] = field(default_factory=list)
    color_scale: list[str] = field(default_factory=list)
    compared: list[ComparedExample] = field(default_factory=list)
    comparison_note: str = ""
    legend: list[tuple[str, str]] = field(default_factory=list)
    lineage: list[tuple[str, str]] = field(default_factory=list)
    versions: list[tuple[str, str]] = field(default_factory=list)
