"""Metrics with TF Serving's names, in Prometheus' text format.

prometheus-client counts, but cannot write the text: it appends `_total` to the names of counters, TF Serving does not.

Source: TF Serving's util/prometheus_exporter.cc, servables/tensorflow/util.cc, batching/batching_session.cc,
core/server_request_logger.cc.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

DEFAULT_PATH = "/monitoring/prometheus/metrics"
CONTENT_TYPE = "text/plain"

_REGISTRY = CollectorRegistry()
# prometheus-client removes _total from a counter's name and appends it to every sample's: its name → TF Serving's.
_COUNTER_NAMES: dict[str, str] = {}


class ModelNames(Protocol):
    """Provides the names of the models."""

    def names(self) -> Collection[str]:
        """Returns the names."""
        ...


def _exponential(scale: float, growth: float, count: int) -> list[float]:
    return [scale * growth**index for index in range(count)]


def _counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
    full = f":tensorflow:{name}"
    _COUNTER_NAMES[full.removesuffix("_total")] = full
    return Counter(full, text, labels, registry=_REGISTRY)


def _histogram(name: str, text: str, labels: tuple[str, ...], buckets: list[float]) -> Histogram:
    return Histogram(f":tensorflow:{name}", text, labels, buckets=buckets, registry=_REGISTRY)


_LATENCIES = _exponential(10, 1.8, 33)  # µs, up to 20 minutes
_SIZES = _exponential(1, 2, 15)

REQUEST_COUNT = _counter("serving:request_count", "The total number of requests.", ("model_name", "status"))
REQUEST_LATENCY = _histogram(
    "serving:request_latency",
    "Distribution of wall time (in microseconds) for Tensorflow Serving request.",
    ("model_name", "API", "entrypoint"),
    _LATENCIES,
)
RUNTIME_LATENCY = _histogram(
    "serving:runtime_latency",
    "Distribution of wall time (in microseconds) for Tensorflow runtime.",
    ("model_name", "API", "runtime"),
    _LATENCIES,
)
EXAMPLE_COUNTS = _histogram(
    "serving:request_example_counts", "The number of tensorflow.Examples per request.", ("model",), _SIZES
)
EXAMPLE_COUNT_TOTAL = _counter(
    "serving:request_example_count_total", "The total number of tensorflow.Examples.", ("model",)
)
WARMUP_LATENCY = _histogram(
    "serving:model_warmup_latency",
    "Distribution of wall time (in microseconds) for warming up the model.",
    ("model_path", "status"),
    _LATENCIES,
)
LOAD_COUNT = _counter(
    "cc:saved_model:load_attempt_count", "The number of times a SavedModel was loaded.", ("model_path", "status")
)
LOAD_LATENCY = _counter(
    "cc:saved_model:load_latency", "Latency in microseconds for SavedModels that were loaded.", ("model_path",)
)
QUEUING_LATENCY = _histogram(
    "serving:batching_session:queuing_latency",
    "Distribution of wall time spent (in microseconds) in queuing",
    ("thread_pool_name",),
    _exponential(100, 1.2, 52),
)
BATCH_INPUT_SIZE = _histogram(
    "serving:batching_session:input_batch_size", "Tracks the batch size distribution on the inputs.", (), _SIZES
)
BATCH_PROCESSED_SIZE = _histogram(
    "serving:batching_session:processed_batch_size", "Tracks the batch size distribution on processing.", (), _SIZES
)
BATCH_PADDING = _histogram(
    "serving:batching_session:padding_size",
    "Tracks the padding size distribution on batches.",
    ("execution_batch_size",),
    _SIZES,
)
REQUEST_LOG_COUNT = _counter(
    "serving:request_log_count", "The total number of requests logged from the model.", ("model_name", "status")
)
REQUEST_LOG_BYTES = _counter("serving:request_log_bytes", "The total size of the request log in bytes.", ())
REQUEST_LOG_ERRORS = _counter("serving:request_log_errors", "The total number of errors of the request log.", ())
MIRROR_COUNT = _counter(
    "serving:mirrored_request_count", "The total number of requests that the gateway mirrored.", ("result",)
)
WRAPPED_RUN_COUNT = _counter(
    "serving:batching_session:wrapped_run_count", "Total count of run calls on the wrapped session", ()
)


def count(source: ModelNames, model_name: str, status: str) -> None:
    """Counts one request. All unknown model names share one label: clients could fill the memory with made-up names."""
    REQUEST_COUNT.labels(model_name if model_name in source.names() else "", status).inc()


def count_logged(model_name: str, status: str) -> None:
    """Counts a request of a request log: OK if it was written, UNAVAILABLE if it was dropped."""
    REQUEST_LOG_COUNT.labels(model_name, status).inc()


def count_log(kind: str, number: int) -> None:
    """Counts bytes and errors of the request logs; see `request_log.background.Count`."""
    if kind == "bytes":
        REQUEST_LOG_BYTES.inc(number)
    elif kind == "errors":
        REQUEST_LOG_ERRORS.inc(number)


def page() -> str:
    """Returns the metrics since the start of the process."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    for metric in _REGISTRY.collect():
        counter = _COUNTER_NAMES.get(metric.name)
        yield f"# HELP {counter or metric.name} {metric.documentation}"
        yield f"# TYPE {counter or metric.name} {metric.type}"
        for sample in metric.samples:
            if sample.name.endswith("_created"):
                continue
            labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
            yield f"{counter or sample.name}{{{labels}}} {sample.value:.17g}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
