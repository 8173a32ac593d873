"""The last result as Prometheus metrics: for node_exporter's textfile collector, or to scrape."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from serving.monitor.result import MonitorResult

# node_exporter's textfile collector reads files with this suffix.
FILE = "monitor.prom"
_PREFIX = "tfx_vision_monitor"


class Metrics:
    """The metrics of one model.

    Attributes:
      registry: Their registry, which can be served.
    """

    def __init__(self) -> None:
        """Creates the metrics, without values."""
        self.registry = CollectorRegistry()
        model, test = ("model_name", "version"), ("model_name", "version", "kind", "name")
        slice_ = ("model_name", "version", "slice")
        self._alarm = self._gauge("alarm", "1 if the last window raised an alarm, otherwise 0.", model)
        self._time = self._gauge("timestamp_seconds", "When the last window was tested.", model)
        self._last = self._gauge("window_last_request_seconds", "Time of the last request of the window.", model)
        self._images = self._gauge("window_images", "Number of images in the window.", model)
        self._p_value = self._gauge("adjusted_p_value", "Corrected p-value of a test; small for drift.", test)
        self._statistic = self._gauge("statistic", "Statistic of a test; large for drift.", test)
        self._drift = self._gauge("drift", "1 if the test raises the alarm, otherwise 0.", test)
        self._quality = self._gauge("quality", "Mean quality of the predictions, by feedback.", slice_)
        self._labelled = self._gauge("labelled_images", "Number of images with feedback.", slice_)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, labels, registry=self.registry)

    def set(self, result: MonitorResult) -> None:
        """Replaces all values by those of a result; those of an earlier version disappear."""
        for gauge in vars(self).values():
            if isinstance(gauge, Gauge):
                gauge.clear()
        model = (result.model, str(result.version))
        self._alarm.labels(*model).set(int(result.alarm))
        self._time.labels(*model).set(result.created)
        self._last.labels(*model).set(result.window.last)
        self._images.labels(*model).set(result.window.images)
        for test in result.tests:
            labels = (*model, test.kind, test.name)
            self._p_value.labels(*labels).set(test.adjusted_p_value)
            self._statistic.labels(*labels).set(test.statistic)
            self._drift.labels(*labels).set(int(test.drift))
        for each in result.quality:
            self._quality.labels(*model, each.slice).set(each.value)
            self._labelled.labels(*model, each.slice).set(each.images)

    def text(self) -> bytes:
        """Returns the values in Prometheus' text format."""
        return generate_latest(self.registry)
