"""The content of the report: plain values, built by pure functions from the contents of the run's artifacts."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from components.evaluator import default_rules
from components.model_report import data_summary, gate_tables, metric_tables, summary, training_curves
from components.model_report.charts import Chart
from components.model_report.data_summary import DataSummary
from components.model_report.metric_tables import Confusion, Definition
from components.model_report.sources import Sources
from components.model_report.summary import PushDecision
from components.model_report.tables import Table
from trainer_module import tasks
from trainer_module.tasks import Comparison


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
    confusion: Confusion
    reliability: Chart | None
    comparison: Comparison | None
    data: DataSummary
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
        confusion=metric_tables.confusion(evaluation),
        reliability=metric_tables.reliability(evaluation.overall),
        comparison=task.drawing.comparison,
        data=data_summary.summarize(sources),
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
