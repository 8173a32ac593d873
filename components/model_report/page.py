"""What the report says: a tree of plain values, built by pure functions from what the nodes left."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from components.model_report import data_summary, figure_tables, training_curves, verdict
from components.model_report.charts import Chart
from components.model_report.data_summary import Data
from components.model_report.figure_tables import Confusion
from components.model_report.masks import Comparison
from components.model_report.sources import Explained, Sources
from components.model_report.tables import Table


@dataclass(frozen=True)
class Page:
    """The whole report."""

    name: str
    task: str
    split: str
    created: str
    verdict: verdict.Verdict
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
    scale: list[str]
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

    @property
    def reduced(self) -> bool:
        """Whether some pictures were made smaller than others, for the page's sake."""
        drawn = [picture for entry in (*self.mistakes, *self.right) for picture in (entry.picture, entry.overlay)]
        for entry in self.comparisons:
            drawn += [entry.picture, entry.truth, entry.predicted, entry.difference]
        return any(picture.reduced for picture in drawn)


def build(sources: Sources) -> Page:
    """Turns what the nodes left into what is shown."""
    evaluation = sources.evaluation
    encoded = base64.b64encode(sources.configuration.encode()).decode()
    training = training_curves.curves(sources.history)
    return Page(
        name=sources.name,
        task=evaluation.task,
        split=evaluation.split,
        created=sources.created.strftime("%Y-%m-%d %H:%M UTC"),
        verdict=verdict.judge(sources),
        metrics=figure_tables.metrics_table(evaluation),
        has_baseline=evaluation.baseline is not None,
        rules=verdict.rules_table(sources.gates.results),
        checks=verdict.checks_table(sources.checks),
        classes=figure_tables.class_table(evaluation, sources.gates.results),
        slices=figure_tables.slice_table(evaluation, sources.gates.results),
        confusion=figure_tables.confusion(evaluation),
        reliability=figure_tables.reliability(evaluation.overall),
        explained=sources.explained,
        mistakes=sources.mistakes,
        right=sources.right,
        scale=sources.scale,
        comparisons=sources.comparisons,
        legend=sources.legend,
        data=data_summary.summarize(sources),
        training=training,
        training_sentence=training_curves.sentence(sources.history),
        epochs=training_curves.epochs_table(sources.history),
        tuned=training_curves.tuned_table(sources.tuned),
        trials=training_curves.trials_table(sources.trials or []),
        lineage=sources.lineage,
        versions=sources.versions,
        configuration=sources.configuration,
        configuration_uri=f"data:application/toml;base64,{encoded}",
    )
