"""The content of the report: plain values, built by pure functions from the contents of the run's artifacts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from components.evaluator import default_rules
from components.model_report import (
    data_summary,
    gate_tables,
    label_audit,
    label_statistics,
    metric_tables,
    summary,
    task_plots,
    training_curves,
)
from components.model_report.charts import Chart
from components.model_report.comparisons import ComparedExample
from components.model_report.data_summary import DataSummary
from components.model_report.label_audit import LabelAudit
from components.model_report.label_statistics import LabelSummary
from components.model_report.metric_tables import Confusion, Definition
from components.model_report.sources import Sources
from components.model_report.summary import PushDecision
from components.model_report.tables import Table
from components.model_report.task_plots import DrawnGroup
from trainer_module import tasks
from trainer_module.tasks import Comparison


@dataclass(frozen=True)
class ComparedGroup:
    """Examples with the same main type of error.

    Attributes:
      heading: The type; empty if the task has none.
      text: Its meaning, and the number of images.
      examples: The worst first.
    """

    heading: str
    text: str
    examples: list[ComparedExample]


@dataclass(frozen=True)
class Page:
    """The whole report: values that are shown as they are, and what is built from the others."""

    sources: Sources
    created: str
    decision: PushDecision
    metrics: Table
    thresholds: Table
    checks: Table
    classes: Table
    slices: Table | None
    corruptions: Table | None
    confusion: Confusion
    reliability: Chart | None
    comparison: Comparison | None
    compared: list[ComparedGroup]
    plots: list[DrawnGroup]
    data: DataSummary
    labels: LabelSummary | None
    audit: LabelAudit | None
    training: list[Chart]
    training_sentence: str
    epochs: Table
    tuned: Table | None
    trials: Table | None
    configuration_uri: str
    definitions: list[Definition]

    @property
    def reduced(self) -> bool:
        """Whether some images were reduced to keep the page small."""
        explained = (*self.sources.incorrect, *self.sources.correct)
        shown = [image for entry in explained for image in (entry.image, entry.overlay)]
        shown += [image for entry in self.sources.compared for _, image in entry.panels]
        shown += [card.image for card in (self.audit.cards if self.audit else ()) if card.image]
        return any(image.reduced for image in shown)


def build(sources: Sources) -> Page:
    """Builds the content of the report."""
    evaluation, gates, task = sources.evaluation, sources.gates.results, tasks.get(sources.evaluation.task)
    descriptions = {metric.name: metric.description for metric in evaluation.metrics}
    encoded = base64.b64encode(sources.configuration.encode()).decode()
    return Page(
        sources=sources,
        created=sources.created.strftime("%Y-%m-%d %H:%M UTC"),
        decision=summary.push_decision(sources),
        metrics=metric_tables.metrics_table(evaluation),
        thresholds=gate_tables.thresholds_table(gates, descriptions | default_rules.descriptions(evaluation.task)),
        checks=gate_tables.checks_table(sources.checks),
        classes=metric_tables.class_table(evaluation, gates),
        slices=metric_tables.slice_table(evaluation, gates),
        corruptions=metric_tables.corruption_table(evaluation),
        confusion=metric_tables.confusion(evaluation),
        reliability=metric_tables.reliability(evaluation.overall),
        comparison=task.drawing.comparison,
        compared=_by_error_type(sources.compared, task.drawing.comparison),
        plots=task_plots.draw(evaluation),
        data=data_summary.summarize(sources),
        labels=label_statistics.summarize(
            sources.labels, task.label_statistics, evaluation.classes, evaluation.count_unit
        ),
        audit=label_audit.summarize(sources.audit),
        training=training_curves.curves(
            sources.history, task.objectives, {metric.name: metric.heading for metric in evaluation.metrics}
        ),
        training_sentence=training_curves.sentence(sources.history, sources.kept_epoch),
        epochs=training_curves.epochs_table(sources.history),
        tuned=training_curves.tuned_table(sources.tuned),
        trials=training_curves.trials_table(sources.trials),
        configuration_uri=f"data:application/toml;base64,{encoded}",
        definitions=metric_tables.definitions(evaluation.metrics),
    )


def _by_error_type(compared: Sequence[ComparedExample], comparison: Comparison | None) -> list[ComparedGroup]:
    """Groups examples by their type of error, the type of most images first."""
    groups: dict[str, list[ComparedExample]] = {}
    for example in sorted(compared, key=lambda example: -example.num_images):
        groups.setdefault(example.error_type, []).append(example)
    described = []
    for name, examples in groups.items():
        text = ""
        if comparison is not None and name in comparison.error_types:
            meaning, number = comparison.error_types[name], examples[0].num_images
            images = "1 image" if number == 1 else f"{number:,} images"
            text = f"{meaning[0].upper()}{meaning[1:]}. The most frequent error of {images}."
        described.append(ComparedGroup(name.capitalize(), text, examples))
    return described
