"""One version of a model, loaded as TF Serving loads it: a session and its signatures, no Python objects."""

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
from serving.local_server.errors import RequestError, from_tensorflow

TIMED_OUT = "Timed out waiting for notification"


@dataclass(frozen=True)
class LoadOptions:
    """How sessions are made, and what is let into them.

    Attributes:
      tags: Which meta graph of the SavedModel is loaded.
      intra_op_threads: For one operation; 0 lets TensorFlow choose.
      inter_op_threads: For operations side by side; 0 lets TensorFlow choose.
      gpu_memory_fraction: Of each GPU, taken at once; 0 takes what is needed as it is needed.
      max_pixels: Of one picture, by its header.
    """

    tags: tuple[str, ...] = (tf.saved_model.SERVING,)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    gpu_memory_fraction: float = 0.0
    max_pixels: int = 100_000_000


class Runner(Protocol):
    """Decides when a call runs, and with which others."""

    def run(
        self, servable: Servable, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...], deadline: float | None
    ) -> list[np.ndarray]:
        """Runs the servable's session, see `Servable.run`."""
        ...


class Servable:
    """A loaded SavedModel; safe to use from several threads.

    Attributes:
      name: The model's.
      version: Its number.
      meta_graph: The MetaGraphDef without its graph: signatures above all.
    """

    def __init__(self, name: str, version: int, export_dir: str, runner: Runner, options: LoadOptions) -> None:
        """Loads the model.

        Args:
          name: The model's.
          version: Its number.
          export_dir: Folder with `saved_model.pb` and `variables/`.
          runner: Decides when a call runs.
          options: How the session is made.

        Raises:
          Exception: Whatever the loader raises for an export that is not whole; the errors have no common class.
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
        """SignatureDef by name."""
        signatures: Mapping[str, Any] = self.meta_graph.signature_def
        return signatures

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], api: str, deadline: float | None
    ) -> list[np.ndarray]:
        """Runs the session, when its turn has come.

        Args:
          feeds: Arrays by tensor name; strings as object arrays of bytes. Shapes are the graph's business.
          fetches: Names of tensors.
          api: "Predict", "Classify", ...: a label of the metrics.
          deadline: On the clock of `time.monotonic`; None waits for ever.

        Returns:
          An array for every fetch.

        Raises:
          RequestError: What the graph, the queue or the deadline refuses.
        """
        pixels.check(feeds, self._options.max_pixels)
        started = time.perf_counter()
        values = self._runner.run(self, feeds, tuple(fetches), deadline)
        monitoring.RUNTIME_LATENCY.labels(self.name, api, "TF1").observe((time.perf_counter() - started) * 1e6)
        return values

    def run_now(self, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...]) -> list[np.ndarray]:
        """Runs the session in this thread, at once.

        Raises:
          RequestError: With the graph's own code and message.
        """
        names = tuple(feeds)
        call = self._callables.get((names, fetches)) or self._callable(names, fetches)
        try:
            values: list[np.ndarray] = call(*feeds.values())
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from None
        except (ValueError, TypeError) as error:  # what no tensor can be made of
            raise RequestError("INVALID_ARGUMENT", str(error)) from None
        return values

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Callable[..., Any]:
        """The session's C++ entry point.

        `Session.make_callable` and `Session.run` hold every value against the placeholder's shape, which TF Serving
        does not, and cost ten times as much.
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
