"""One model version, loaded as TF Serving loads it: a session and its signatures, no Python objects."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving.local_server import monitoring, pixels
from serving.local_server.errors import from_tensorflow, invalid_argument

TIMED_OUT = "Timed out waiting for notification"


@dataclass(frozen=True)
class LoadOptions:
    """Options of a session, and limits of its inputs.

    Attributes:
      tags: Tags of the meta graph to load.
      intra_op_threads: Threads for one operation; 0 lets TensorFlow choose.
      inter_op_threads: Threads for concurrent operations; 0 lets TensorFlow choose.
      gpu_memory_fraction: Fraction of each GPU's memory, allocated at once; 0 allocates as needed.
      max_pixels: Limit of an image's pixels, according to its header.
    """

    tags: tuple[str, ...] = (tf.saved_model.SERVING,)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    gpu_memory_fraction: float = 0.0
    max_pixels: int = 100_000_000


class SessionRunner(Protocol):
    """Decides when a call runs, and together with which others."""

    def run(
        self, servable: Servable, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...], deadline: float | None
    ) -> list[np.ndarray]:
        """Runs the servable's session; see `Servable.run`."""
        ...


class Servable:
    """A loaded SavedModel; thread-safe.

    Attributes:
      name: Name of the model.
      version: Version number.
      meta_graph: The MetaGraphDef without its graph; contains the signatures.
    """

    def __init__(self, name: str, version: int, export_dir: str, runner: SessionRunner, options: LoadOptions) -> None:
        """Loads the model.

        Args:
          name: Name of the model.
          version: Version number.
          export_dir: Folder with `saved_model.pb` and `variables/`.
          runner: Decides when a call runs.
          options: Options of the session.

        Raises:
          Exception: From the loader, for an incomplete export; its errors have no common class.
        """
        self.name, self.version = name, version
        self._runner, self._options = runner, options
        gpu = config_pb2.GPUOptions(
            per_process_gpu_memory_fraction=options.gpu_memory_fraction, allow_growth=not options.gpu_memory_fraction
        )
        self._session = tf.compat.v1.Session(
            graph=tf.Graph(),
            config=config_pb2.ConfigProto(
                intra_op_parallelism_threads=options.intra_op_threads,
                inter_op_parallelism_threads=options.inter_op_threads,
                gpu_options=gpu,
            ),
        )
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], Callable[..., Any]] = {}
        self._lock = threading.Lock()
        try:
            with self._session.graph.as_default():
                self.meta_graph = tf.compat.v1.saved_model.loader.load(self._session, list(options.tags), export_dir)
        except Exception:
            self._session.close()
            raise
        self.meta_graph.ClearField("graph_def")  # a second copy of the graph, as large as the first

    @property
    def signatures(self) -> Mapping[str, Any]:
        """The SignatureDefs, by name."""
        signatures: Mapping[str, Any] = self.meta_graph.signature_def
        return signatures

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], api: str, deadline: float | None
    ) -> list[np.ndarray]:
        """Runs the session, when the runner allows it.

        Args:
          feeds: Arrays by tensor name; strings as object arrays of bytes. The graph checks their shapes.
          fetches: Names of tensors.
          api: "Predict", "Classify", ...: a label of the metrics.
          deadline: On the clock of `time.monotonic`; None waits without limit.

        Returns:
          One array per fetch.

        Raises:
          RequestError: If the graph refuses the inputs, the queue is full, or the deadline is over.
        """
        pixels.refuse_large_images(feeds, self._options.max_pixels)
        started = time.perf_counter()
        values = self._runner.run(self, feeds, tuple(fetches), deadline)
        monitoring.RUNTIME_LATENCY.labels(self.name, api, "TF1").observe((time.perf_counter() - started) * 1e6)
        return values

    def run_now(self, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...]) -> list[np.ndarray]:
        """Runs the session in this thread, without waiting.

        Raises:
          RequestError: With the graph's code and message.
        """
        names = tuple(feeds)
        call = self._callables.get((names, fetches)) or self._callable(names, fetches)
        try:
            values: list[np.ndarray] = call(*feeds.values())
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from None
        except (ValueError, TypeError) as error:  # not convertible to a tensor
            raise invalid_argument(str(error)) from None
        return values

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Callable[..., Any]:
        """Returns the session's C++ entry point.

        `Session.make_callable` and `Session.run` check every value against the placeholder's shape, which TF Serving
        does not, and take ten times as long.
        """
        with self._lock:
            if (feeds, fetches) not in self._callables:
                options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
                try:
                    self._callables[feeds, fetches] = self._session._make_callable_from_options(options)
                except tf.errors.OpError as error:
                    raise from_tensorflow(error) from None
            return self._callables[feeds, fetches]

    def close(self) -> None:
        """Frees the session and its variables."""
        with self._lock:
            self._callables.clear()
        self._session.close()
