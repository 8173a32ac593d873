"""Writes a result: JSON document, HTML page, Prometheus metrics, and the history in ML Metadata."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution.run_lock import AlreadyRunningError
from pipeline.history import monitoring_history
from pipeline.monitoring import page, prometheus
from serving.monitor.result import MonitorResult
from trainer_module import locations

PAGE_FILE = "monitor.html"
# On the page.
_MOST_EARLIER = 50


class Outputs:
    """The files of one configuration; every window replaces them.

    Attributes:
      page_path: The HTML page.
      metrics_path: The Prometheus metrics.
    """

    def __init__(self, config: PipelineConfig, folder: Path) -> None:
        """Takes the folder; `write` creates it."""
        self._config, self._folder, self._metrics = config, folder.absolute(), prometheus.Metrics()
        self.page_path, self.metrics_path = self._folder / PAGE_FILE, self._folder / prometheus.FILE

    def serve_metrics(self, port: int) -> None:
        """Serves the metrics of the last result at a port, in a thread.

        Raises:
          OSError: If the port is in use.
        """
        from prometheus_client import start_http_server

        start_http_server(port, registry=self._metrics.registry)

    def write(self, result: MonitorResult, reference_uri: str) -> list[str]:
        """Writes everything; returns notes about what could not be stored in the history.

        Raises:
          OSError: If a file cannot be written.
        """
        notes, earlier = [], []
        try:
            earlier = monitoring_history.read(self._config, _MOST_EARLIER)
            monitoring_history.add(self._config, result, reference_uri, str(self._folder))
        except (AlreadyRunningError, ConfigError) as error:
            notes.append(f"This window is not in the history. {error}")
        self._folder.mkdir(parents=True, exist_ok=True)
        locations.replace(str(self.page_path), page.render(result, earlier).encode())
        self._metrics.set(result)
        locations.replace(str(self.metrics_path), self._metrics.text())
        # Last: whoever reads the alarm finds the page.
        result.write(self._folder)
        return notes
