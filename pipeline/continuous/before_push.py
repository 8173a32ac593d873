"""Compares a candidate with the served version before it is pushed, on the newest requests of a log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.config.sections import PipelineConfig
from pipeline.continuous import shadow
from pipeline.execution.results import Refusal
from pipeline.labeling import predictors
from trainer_module import model_versions, tasks

NUM_IMAGES = 500


def comparison(
    config: PipelineConfig, prefix: Path, max_changed: float, on_note: Callable[[str], None]
) -> Callable[[str], Refusal | None]:
    """Returns what `local_run.execute` calls before Pusher.

    The report is `shadow.json` in the folder of the pipeline. Without a served version, or without images in the log,
    there is nothing to compare, and the push is not refused.

    Args:
      config: The whole configuration.
      prefix: Of the request log.
      max_changed: Largest share of changed predictions.
      on_note: Called with one line about the result.
    """

    def compare(export_dir: str) -> Refusal | None:
        versions = model_versions.list_versions(config.model_base_path).served
        if not versions:
            on_note("shadow comparison: no version is served yet")
            return None
        labeling = tasks.get(config.task.name).labeling
        images = shadow.newest_images(prefix, labeling.from_feedback, NUM_IMAGES)
        if not images:
            on_note(f"shadow comparison: the request log {prefix} has no images")
            return None
        served = predictors.pushed_version(config, versions[0])
        candidate = predictors.PushedModel(export_dir, "the candidate")
        try:
            report = shadow.compare(
                images,
                candidate.outputs,
                served.outputs,
                labeling,
                (candidate.classes or (), served.classes or ()),
                (candidate.description, served.description),
                max_changed,
            )
        finally:
            candidate.close()
            served.close()
        report.write(str(config.run_dir))
        on_note(f"shadow comparison: {report.summary}")
        if not report.refused:
            return None
        value = report.changed / report.images
        return Refusal(
            gate="shadow comparison",
            metric="changed predictions",
            applies_to="all",
            value=value if value > max_changed else None,
            bound=max_changed if value > max_changed else None,
            missed_by=value - max_changed if value > max_changed else None,
            detail=report.refused,
        )

    return compare
