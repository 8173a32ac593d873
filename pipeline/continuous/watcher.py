"""Starts runs when a span, an alarm with labels or the schedule asks for one; one watcher per pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from components.image_example_gen import spans
from components.image_example_gen.errors import DatasetError
from components.stored import IncompatibleArtifactError
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.continuous import triggers
from pipeline.continuous.triggers import Observed, WatchState
from pipeline.history import run_history
from serving.monitor import result as monitor_result
from trainer_module import model_versions, tasks

if TYPE_CHECKING:
    from pipeline.labeling.confirmed import ConfirmedImage
    from pipeline.labeling.feedback import NewFeedback

_OUTCOMES = {
    0: "done",
    1: "failed",
    2: "cannot start: the configuration or the images have to be changed",
    3: "refused by a gate; the served version stays",
}


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """How a watcher finds reasons, and how it starts a run.

    Attributes:
      start: Starts a run and waits for its end; returns its exit code.
      log: Prefix of the request log, from which feedback becomes labels after an alarm.
      monitor_dir: Folder of the last result of `tfx-vision monitor`.
      every_s: Seconds between the starts of runs; None without a schedule.
      min_labels: Smallest number of images with feedback that become a span after an alarm.
      on_line: Called with every line of the log.
    """

    start: Callable[[], int]
    log: Path
    monitor_dir: Path
    every_s: float | None = None
    min_labels: int = 20
    on_line: Callable[[str], None] = field(default=lambda line: None)


class Watcher:
    """Looks for reasons to start a run; its state is `watch.json` in the folder of the pipeline."""

    def __init__(self, config: PipelineConfig, options: WatchOptions) -> None:
        """Restores the state.

        Raises:
          ConfigError: If the state is damaged, or if there is nothing to watch.
        """
        self._config, self._options = config, options
        self._has_spans = spans.has_spans(config.data_location)
        if not self._has_spans and options.every_s is None:
            raise ConfigError(
                f"data.path = {config.data_location} has no {{SPAN}}, so that there are no new spans to wait for. "
                "Use a path with {SPAN}, or a schedule (--every)."
            )
        self._state = self._restored()
        self._feedback: NewFeedback | None = None
        self._no_labels = ""

    def run(self, interval_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Looks again and again, until an exception such as KeyboardInterrupt."""
        while True:
            self.look()
            sleep(interval_s)

    def look(self) -> int | None:
        """Looks once, and starts a run if there is a reason; returns its exit code, None without a run."""
        observed = self._observe()
        if triggers.alarm_is_open(self._state, observed) and self._has_spans:
            if (observed.span or (0, 0)) <= (self._state.span or (0, 0)):
                observed = self._label_by_feedback(observed)
        trigger = triggers.find(self._state, observed, self._options.every_s)
        if trigger is None:
            return None
        self._options.on_line(f"run: {trigger.text}")
        self._store(triggers.started(self._state, observed))
        exit_code = self._options.start()
        self._store(triggers.ended(self._state, exit_code))
        self._options.on_line(f"run: {_OUTCOMES.get(exit_code, f'ended with exit code {exit_code}')}")
        if self._state.attempts == triggers.MOST_ATTEMPTS:
            self._options.on_line(f"run: {self._state.attempts} attempts failed; waiting for the next reason")
        return exit_code

    def _observe(self) -> Observed:
        newest = None
        if self._has_spans:
            try:
                span = spans.resolve(self._config.data_location, "newest")[0]
                newest = (span.number, span.version)
            except DatasetError as error:
                self._options.on_line(f"waiting: {error}")
        return Observed(time.time(), newest, self._alarm())

    def _alarm(self) -> float | None:
        try:
            result = monitor_result.read(self._options.monitor_dir)
        except monitor_result.ResultError as error:
            self._options.on_line(str(error))
            return None
        versions = model_versions.list_versions(self._config.model_base_path).served
        is_alarm = result is not None and result.is_alarm_for(versions[0] if versions else None)
        return result.created if result is not None and is_alarm else None

    def _label_by_feedback(self, observed: Observed) -> Observed:
        """Writes the logged images with feedback as the next span, if there are enough new ones."""
        from pipeline.labeling import feedback  # TensorFlow, which is rarely needed here

        if self._feedback is None:
            read_label = tasks.get(self._config.task.name).labeling.from_feedback
            self._feedback = feedback.NewFeedback(self._options.log, self._config.model_name, read_label)
        labelled = self._feedback.read()
        if labelled is not None and (number := self._write_span(labelled.images)) is not None:
            return observed._replace(span=(number, 0))
        if observed.alarm is not None and observed.alarm > self._state.noted_alarm:
            self._options.on_line(
                f"alarm: no labels to train on ({self._no_labels}). `tfx-vision select` chooses images to label, "
                "`tfx-vision label` adds them"
            )
            self._store(self._state.model_copy(update={"noted_alarm": observed.alarm}))
        return observed

    def _write_span(self, images: Sequence[ConfirmedImage]) -> int | None:
        """Writes images as the next span and returns its number; None, and a reason for the log, if there is none."""
        from pipeline.labeling import next_span

        if len(images) < self._options.min_labels:
            required = f"at least {self._options.min_labels:,} are required"
            self._no_labels = f"{len(images):,} images with feedback, {required}"
            return None
        try:
            written = next_span.write(self._config, images)
        except DatasetError as error:
            self._no_labels = str(error)
            return None
        self._options.on_line(f"alarm: {written.images:,} images with feedback are span {written.number}")
        return written.number

    def _restored(self) -> WatchState:
        try:
            return triggers.resumed(WatchState.read(str(self._config.run_dir)))
        except FileNotFoundError:
            return WatchState(span=self._span_of_last_run())
        except IncompatibleArtifactError as error:
            path = self._config.run_dir / WatchState.FILE
            raise ConfigError(f"{error} Or delete {path}: the watcher then starts as if new.") from None

    def _span_of_last_run(self) -> tuple[int, int] | None:
        """Returns the newest span that the last run read; its newest version, since runs do not store which it was."""
        try:
            (last,) = run_history.read(self._config).newest(1)
        except (ConfigError, ValueError):  # no run yet
            return None
        if not self._has_spans or last.span is None:
            return None
        versions = [span for span in spans.resolve(self._config.data_location, "all") if span.number == last.span]
        return (last.span, versions[0].version if versions else 0)

    def _store(self, state: WatchState) -> None:
        self._state = state
        state.write(str(self._config.run_dir))
