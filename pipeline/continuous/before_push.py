"""Compares a candidate with the served version before it is pushed, on the newest requests of a log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.continuous import shadow
from pipeline.continuous.shadow import ShadowReason, ShadowReport
from pipeline.execution.results import Refusal
from pipeline.labeling import predictors
from pipeline.labeling.predictors import PushedModel
from trainer_module import model_versions, tasks

NUM_IMAGES = 500


def remove_report(config: PipelineConfig) -> None:
    """Removes the report of an earlier run; called when a run starts, whether that writes a report or not."""
    (config.run_dir / ShadowReport.FILE).unlink(missing_ok=True)


def comparison(
    config: PipelineConfig, prefix: Path, max_changed: float, on_note: Callable[[str], None]
) -> Callable[[str], list[Refusal]]:
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

    def compare(export_dir: str) -> list[Refusal]:
        versions = model_versions.list_versions(config.model_base_path).served
        if not versions:
            on_note("shadow comparison: no version is served yet")
            return []
        labeling = tasks.get(config.task.name).labeling
        images = shadow.newest_images(prefix, config.model_name, labeling.from_feedback, NUM_IMAGES)
        if not images:
            on_note(f"shadow comparison: the request log {prefix} has no images for the model {config.model_name}")
            return []
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
        return [_refusal(reason) for reason in report.reasons]

    return compare


def _served(config: PipelineConfig, version: int) -> PushedModel:
    try:
        return predictors.pushed_version(config, version)
    except ConfigError as error:
        raise ConfigError(
            f"The shadow comparison requires the served version. {error} Serve another one with `tfx-vision rollback`, "
            "or run without --shadow."
        ) from None


def _refusal(reason: ShadowReason) -> Refusal:
    missed_by = None if reason.value is None or reason.bound is None else reason.value - reason.bound
    metric, detail = (f"shadow comparison: {text}" for text in (reason.metric, reason.detail))
    return Refusal("Pusher", metric, "all", reason.value, reason.bound, missed_by, detail)
