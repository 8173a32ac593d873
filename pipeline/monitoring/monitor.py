"""Monitors the served version of a pipeline: reads a window of the request log and compares it with the reference."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.monitoring_reference.artifact import Reference
from pipeline.config.sections import PipelineConfig
from pipeline.history import run_history
from pipeline.monitoring.errors import MonitorError
from serving.monitor import drift, quality, window
from serving.monitor.result import MonitorResult
from serving.monitor.window import LogWindow, WindowOptions
from trainer_module import image_statistics, model_versions, tasks
from trainer_module.locations import join
from trainer_module.model_input import Window
from trainer_module.monitored import MonitoredImages, distances, stored_embeddings
from trainer_module.tasks import Monitoring


def served_version(config: PipelineConfig) -> int:
    """Returns the version that servers serve.

    Raises:
      MonitorError: If no model has been pushed.
    """
    served = model_versions.list_versions(config.model_base_path).served
    if not served:
        raise MonitorError(
            f"{config.model_base_path} contains no version: no model of this configuration has been pushed. "
            "`tfx-vision run` pushes one."
        )
    return served[0]


class Monitor:
    """Compares windows of a request log with the reference of one version.

    Attributes:
      version: The version.
      reference_uri: Location of its reference.
    """

    def __init__(self, config: PipelineConfig, log: str, version: int, reference_uri: str | None = None) -> None:
        """Reads the reference.

        Args:
          config: The configuration of the pipeline.
          log: Prefix of the request log.
          version: The served version.
          reference_uri: Location of its reference; by default the one that a run on this machine stored.

        Raises:
          MonitorError: If the version has no reference, or the reference belongs to another one.
          OSError: If the reference cannot be read.
          ConfigError: If the run history cannot be read.
          IncompatibleArtifactError: If the reference cannot be read.
        """
        self.version, self._config, self._log = version, config, log
        self.reference_uri = reference_uri or _stored_reference(config, version)
        self._reference = Reference.read(self.reference_uri)
        if self._reference.summary.version != version:
            raise MonitorError(
                f"{self.reference_uri} is the reference of version {self._reference.summary.version}, and version "
                f"{version} is served. Give the reference of that version."
            )
        self._monitoring: Monitoring = tasks.get(self._reference.summary.task).monitoring
        self._embed: Any = None

    def run(self, after: float = 0.0, *, only_full: bool = False) -> MonitorResult:
        """Tests the newest window, or the one that follows another.

        Args:
          after: End of the other window, seconds since 1970.
          only_full: Whether the window must have `monitoring.window` images, not only `monitoring.min_images`.

        Raises:
          WindowError: If the log has too few requests of this version.
        """
        options, summary = self._config.monitoring, self._reference.summary
        window_options = WindowOptions(
            options.window,
            options.window if only_full else options.min_images,
            options.max_age_hours * 3600.0,
            after,
        )
        logged = window.read(self._log, self._config.model_name, self.version, self._monitoring.outputs, window_options)
        images, notes = self._images(logged)
        compared = drift.compare(
            self._reference.images, images, summary.classes, options.false_alarm_rate, options.min_images
        )
        slices, quality_tests = quality.compare(self._reference.images, images)
        tests = drift.correct([*compared.tests, *quality_tests], options.false_alarm_rate)
        worse = frozenset(test.name for test in tests if test.kind == "quality" and test.drift)
        notes += compared.notes
        notes += [
            f"{number:,} requests {reason} are not part of the window." for reason, number in logged.skipped.items()
        ]
        if logged.untested:
            notes.append(
                f"{logged.untested:,} earlier images are not tested: requests arrive faster than windows are tested. "
                "Log a part of them (--request-log-sampling-rate), or set a larger monitoring.window."
            )
        return MonitorResult(
            created=time.time(),
            model=self._config.model_name,
            version=self.version,
            alarm=any(test.drift for test in tests),
            false_alarm_rate=options.false_alarm_rate,
            window=logged.window,
            reference_images=len(self._reference.images),
            split_images=self._reference.summary.split_images,
            tests=tests,
            quality_name=self._monitoring.quality_name if slices else "",
            quality=quality.worse_slices(slices, worse),
            notes=tuple(notes),
        )

    def _images(self, logged: LogWindow) -> tuple[MonitoredImages, list[str]]:
        summary, files, outputs = self._reference.summary, logged.files(), logged.outputs()
        labels, values, notes = self._qualities(outputs, [image.label for image in logged.images])
        embeddings = logged.embeddings() if files is None else self._embedded(files)
        embeddings = None if embeddings is None else stored_embeddings(embeddings)
        training = self._reference.training
        pixels = image_statistics.measure_all(files, Window(*summary.window)) if files else None
        thumbnails = None if pixels is None else pixels.thumbnail
        far = None
        if embeddings is not None and training is not None:
            far = distances(embeddings, thumbnails, training)
        return (
            MonitoredImages(
                statistics=None if pixels is None else pixels.statistics,
                embeddings=embeddings,
                predictions=self._monitoring.predictions(outputs, len(summary.classes)),
                quality=values,
                labels=labels,
                distances=far,
            ),
            notes,
        )

    def _embedded(self, files: Sequence[bytes]) -> np.ndarray:
        """Computes embeddings with the version itself; loads it once."""
        from trainer_module import embedding

        if self._embed is None:
            self._embed = embedding.from_saved_model(join(self._config.model_base_path, str(self.version)))
        return embedding.embed_all(self._embed, files)

    def _qualities(
        self, outputs: dict[str, np.ndarray], labels: Sequence[Any]
    ) -> tuple[list[tuple[str, ...]], np.ndarray, list[str]]:
        """Returns the classes and the quality of every image, and what was wrong with feedback."""
        summary, problems = self._reference.summary, Counter[str]()
        values = np.full(len(labels), np.nan, np.float32)
        names: list[tuple[str, ...]] = [()] * len(labels)
        for index, label in enumerate(labels):
            if label is None:
                continue
            try:
                values[index] = self._monitoring.quality(outputs, index, label, summary.classes, summary.ignore_id)
                names[index] = self._monitoring.label_classes(label)
            except ValueError as error:
                problems[str(error)] += 1
        notes = [f"The feedback of {number:,} images is ignored: {reason}." for reason, number in problems.items()]
        return names, values, notes


def _stored_reference(config: PipelineConfig, version: int) -> str:
    uri = run_history.read(config).monitoring_reference(version)
    if uri is None:
        raise MonitorError(
            f"Version {version} has no monitoring reference in {config.metadata_path}: it was pushed from elsewhere, "
            "with monitoring.enabled = false, or before references existed. Run the pipeline again with "
            "monitoring.enabled = true, or give its location with --reference."
        )
    return uri
