"""One loaded model version: its signatures, and when its calls run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from serving.local_server import monitoring, pixels
from serving.local_server.caller import Caller

if TYPE_CHECKING:
    from serving.local_server.protos import meta_graph_pb2


@dataclass(frozen=True)
class LoadOptions:
    """Options of a session, and limits of its inputs.

    Attributes:
      tags: Tags of the meta graph to load.
      intra_op_threads: Threads for one operation; 0 lets TensorFlow choose.
      inter_op_threads: Threads for concurrent operations; 0 lets TensorFlow choose.
      gpu_memory_fraction: Fraction of each GPU's memory, allocated at once; 0 allocates as needed.
      max_pixels: Limit of an image's pixels, according to its header.
      prefer_tflite: Whether `model.tflite` is loaded if the version contains it.
    """

    tags: tuple[str, ...] = ("serve",)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    gpu_memory_fraction: float = 0.0
    max_pixels: int = 100_000_000
    prefer_tflite: bool = False


class Model(Protocol):
    """A loaded graph: `session.Session` or `tflite.Interpreters`; thread-safe."""

    meta_graph: meta_graph_pb2.MetaGraphDef

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_s: float | None = None
    ) -> list[np.ndarray]:
        """Runs the graph; see `session.Session.run`."""
        ...

    def close(self) -> None:
        """Frees the graph."""
        ...


class SessionRunner(Protocol):
    """Decides when a call runs, and together with which others."""

    def run(
        self, servable: Servable, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...], caller: Caller
    ) -> list[np.ndarray]:
        """Runs the servable's model; see `Servable.run`."""
        ...


class Servable:
    """A loaded version; thread-safe.

    Attributes:
      name: Name of the model.
      version: Version number.
    """

    def __init__(self, name: str, version: int, model: Model, runner: SessionRunner, max_pixels: int) -> None:
        """Takes the loaded model.

        Args:
          name: Name of the model.
          version: Version number.
          model: The loaded graph.
          runner: Decides when a call runs.
          max_pixels: Limit of an image's pixels, according to its header.
        """
        self.name, self.version = name, version
        self._model, self._runner, self._max_pixels = model, runner, max_pixels

    @property
    def signatures(self) -> Mapping[str, Any]:
        """The SignatureDefs, by name."""
        signatures: Mapping[str, Any] = self._model.meta_graph.signature_def
        return signatures

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], api: str, caller: Caller
    ) -> list[np.ndarray]:
        """Runs the model, when the runner allows it.

        Args:
          feeds: Arrays by tensor name; strings as object arrays of bytes. The graph checks their shapes.
          fetches: Names of tensors.
          api: "Predict", "Classify", ...: a label of the metrics.
          caller: Who waits for the outputs.

        Returns:
          One array per fetch.

        Raises:
          RequestError: If the graph refuses the inputs, the queue is full, the deadline is over, or the caller is gone.
        """
        pixels.refuse_large_images(feeds, self._max_pixels)
        started = time.perf_counter()
        values = self._runner.run(self, feeds, tuple(fetches), caller)
        monitoring.RUNTIME_LATENCY.labels(self.name, api, "TF1").observe((time.perf_counter() - started) * 1e6)
        return values

    def run_now(
        self, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...], caller: Caller | None = None
    ) -> list[np.ndarray]:
        """Runs the model in this thread, without waiting.

        Args:
          feeds: See `run`.
          fetches: See `run`.
          caller: Its deadline ends the run.

        Raises:
          RequestError: With the graph's code and message.
        """
        return self._model.run(feeds, fetches, caller.remaining_s() if caller else None)

    def close(self) -> None:
        """Frees the model and its variables."""
        self._model.close()
