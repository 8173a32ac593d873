"""Compares a candidate with the served version before it is pushed, on the newest requests of a log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.continuous import shadow
from pipeline.continuous.shadow import ShadowReport
from pipeline.execution.results import Refusal
from pipeline.labeling import predictors
from pipeline.labeling.predictors import PushedModel
from trainer_module import model_versions, tasks

NUM_IMAGES = 500


def comparison(
    config: PipelineConfig, prefix: Path, max_changed: float, on_note: Callable[[str], None]
) -> Callable[[str], Refusal | None]:
    """Returns the check that `local_run.execute` calls before Pusher.

    A candidate that cannot be loaded, or that fails on a logged image, is refused. The report is `shadow.json` in the
    folder of the pipeline. Without a served version, or without images in the log, there is nothing to compare, and the
    push is not refused.

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
        with contextlib.closing(_served(config, versions[0])) as served:
            try:
                candidate = predictors.PushedModel(export_dir, "the candidate")
            except ConfigError as error:
                report = shadow.failed("the candidate", served.description, str(error))
            else:
                with contextlib.closing(candidate):
                    report = shadow.compare(images, candidate, served, labeling, max_changed)
        report.write(str(config.run_dir))
        on_note(f"shadow comparison: {report.summary}")
        return _refusal(report, max_changed) if report.refused else None

    return compare


def _served(config: PipelineConfig, version: int) -> PushedModel:
    try:
        return predictors.pushed_version(config, version)
    except ConfigError as error:
        raise ConfigError(
            f"The shadow comparison requires the served version. {error} Serve another one with `tfx-vision rollback`, "
            "or run without --shadow."
        ) from None


def _refusal(report: ShadowReport, max_changed: float) -> Refusal:
    share = report.changed / report.images if report.images else 0.0
    value, bound, missed_by = (share, max_changed, share - max_changed) if share > max_changed else (None, None, None)
    return Refusal("shadow comparison", "changed predictions", "all", value, bound, missed_by, report.refused)
