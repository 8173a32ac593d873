"""Monitors window after window: every request is tested once, and a new version has its own reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from components.stored import IncompatibleArtifactError
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.monitoring.errors import MonitorError
from pipeline.monitoring.monitor import Monitor, served_version
from serving.monitor.errors import WindowError
from serving.monitor.result import MonitorResult

# Reasons that may be over at the next attempt: no model yet, too few requests, a reference that is being written.
_TEMPORARY = (ConfigError, IncompatibleArtifactError, MonitorError, WindowError)


def results(
    config: PipelineConfig,
    log: str,
    reference_uri: str | None,
    interval_s: float,
    waiting: Callable[[str], None],
    sleep: Callable[[float], None],
) -> Iterator[tuple[MonitorResult, str]]:
    """Yields the result of every window, and the location of the reference; never ends.

    The first window has the newest images; every other one has those that follow. A window is complete when it has
    `monitoring.window` images. If that takes longer than `monitoring.max_age_hours`, it is tested with at least
    `monitoring.min_images`.

    Args:
      config: The configuration of the pipeline.
      log: Prefix of the request log.
      reference_uri: Location of the reference, for one version only; by default those of ML Metadata.
      interval_s: Seconds between two looks.
      waiting: Receives the reason why there is no window; once for every reason.
      sleep: Waits for some seconds.
    """
    monitor: Monitor | None = None
    tested_until, due, reason = 0.0, 0.0, ""
    while True:
        try:
            version = served_version(config)
            if monitor is None or monitor.version != version:
                monitor, tested_until, due = Monitor(config, log, version, reference_uri), 0.0, 0.0
            result = monitor.run(tested_until, only_full=time.time() < due)
        except _TEMPORARY as error:
            kind = f"{type(error).__name__} {monitor.version if monitor else 0}"
            if kind != reason:
                reason = kind
                waiting(str(error))
            sleep(interval_s)
            continue
        reason = ""
        yield result, monitor.reference_uri
        tested_until, due = result.window.last, time.time() + config.monitoring.max_age_hours * 3600.0
