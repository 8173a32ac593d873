"""Dynamic batching: calls that wait at the same time run as one batch, from a bounded queue.

Source: TF Serving's batching/batching_session.cc and TensorFlow's kernels/batching_util/shared_batch_scheduler.h. Two
differences are deliberate: calls of different shapes never share a batch, and a failed batch runs again call by call,
so that an invalid image affects only its own call.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serving.local_server import messages, monitoring
from serving.local_server.caller import Caller
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.model_config import read_text
from serving.local_server.servable import Servable


@dataclass(frozen=True)
class BatchingParameters:
    """TF Serving's parameters, with its defaults.

    Attributes:
      max_batch_size: Limit of a call, and of a batch too unless `max_execution_batch_size` sets another.
      batch_timeout_micros: How long a batch that is not full waits for more calls.
      max_enqueued_batches: How many batches wait in each queue.
      num_batch_threads: How many batches run at once.
      thread_pool_name: A label of the metrics.
      allowed_batch_sizes: A batch is padded to the next of these sizes.
      pad_variable_length_inputs: Whether calls of different shapes are padded with zeros to share a batch.
      max_execution_batch_size: Larger calls are split if `enable_large_batch_splitting` is set.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    thread_pool_name: str = "model_server_batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    max_execution_batch_size: int = 1000


def from_file(path: Path) -> BatchingParameters:
    """Reads --batching_parameters_file.

    Raises:
      RequestError: If it cannot be read, or its values contradict each other.
    """
    message = read_text(path, messages.BatchingParameters())
    values = {
        name: getattr(message, name).value
        for name in ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
        if message.HasField(name)
    }
    for name, value in values.items():
        if value < (0 if name == "batch_timeout_micros" else 1):
            raise invalid_argument(f"{name} must be positive; was {value}")
    if message.HasField("thread_pool_name"):
        values["thread_pool_name"] = message.thread_pool_name.value
    max_batch_size = values.get("max_batch_size", BatchingParameters.max_batch_size)
    execution_size = max_batch_size
    if message.enable_large_batch_splitting.value:
        if message.HasField("max_execution_batch_size"):
            execution_size = message.max_execution_batch_size.value
        if not 1 <= execution_size <= max_batch_size:
            raise invalid_argument(
                "max_execution_batch_size should be less than or equal to max_batch_size, and positive"
            )
    sizes = tuple(message.allowed_batch_sizes)
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1):
        raise invalid_argument("allowed_batch_sizes entries must be in increasing order")
    if sizes and sizes[-1] != execution_size:
        limit = "max_execution_batch_size" if message.enable_large_batch_splitting.value else "max_batch_size"
        raise invalid_argument(f"Last entry in allowed_batch_sizes must match {limit}; last entry was {sizes[-1]}")
    return BatchingParameters(
        **values,
        allowed_batch_sizes=sizes,
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        max_execution_batch_size=execution_size,
    )


@dataclass(eq=False)
class _Task:
    """A call, or a part of one that is larger than a batch."""

    feeds: Mapping[str, np.ndarray]
    size: int
    queued: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    abandoned: bool = False
    outputs: list[np.ndarray] | None = None
    error: RequestError | None = None


@dataclass(eq=False)
class _Batch:
    key: tuple[Any, ...]
    servable: Servable
    fetches: tuple[str, ...]
    due: float  # when it runs even if it is not full
    tasks: list[_Task] = field(default_factory=list)
    size: int = 0


class Batcher:
    """Collects calls into batches and runs them in its own threads."""

    def __init__(self, parameters: BatchingParameters) -> None:
        """Starts the threads."""
        self._parameters = parameters
        self._batches: list[_Batch] = []  # of all queues, in the order of `due`
        self._changed = threading.Condition()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{parameters.thread_pool_name}-{number}", daemon=True)
            for number in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Runs the queued batches and ends the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def run(
        self, servable: Servable, feeds: Mapping[str, np.ndarray], fetches: tuple[str, ...], caller: Caller
    ) -> list[np.ndarray]:
        """Runs the call together with others; see `Servable.run`."""
        size = _batch_size(feeds)
        if size > self._parameters.max_batch_size:
            raise invalid_argument(
                f"Task size {size} is larger than maximum input batch size {self._parameters.max_batch_size}"
            )
        if not size:
            return servable.run_now(feeds, fetches, caller)  # no rows to batch
        monitoring.BATCH_INPUT_SIZE.observe(size)
        step = self._parameters.max_execution_batch_size
        tasks = [
            _Task({name: value[start : start + step] for name, value in feeds.items()}, min(step, size - start))
            for start in range(0, size, step)
        ]
        self._enqueue(servable, fetches, tasks)
        for task in tasks:
            try:
                caller.wait(task.done)
            except RequestError:
                self._abandon(tasks)
                raise
            if task.error:
                raise task.error
        outputs = [task.outputs or [] for task in tasks]
        return outputs[0] if len(outputs) == 1 else [np.concatenate(parts) for parts in zip(*outputs, strict=True)]

    def _enqueue(self, servable: Servable, fetches: tuple[str, ...], tasks: list[_Task]) -> None:
        feeds = tasks[0].feeds
        types = tuple((name, value.dtype, value.ndim) for name, value in feeds.items())
        shapes = tuple(value.shape[1:] for value in feeds.values())
        if self._parameters.pad_variable_length_inputs:
            shapes = ()
        key = (servable, types, fetches, shapes)
        with self._changed:
            # Batches of different shapes share one queue, whose length is limited.
            queue = [batch for batch in self._batches if batch.key[:3] == key[:3]]
            target = next((batch for batch in reversed(queue) if batch.key == key), None)
            room = self._parameters.max_execution_batch_size - (target.size if target else 0)
            opened: list[_Batch] = []
            placed: list[tuple[_Batch, _Task]] = []
            for task in tasks:
                if target is None or task.size > room:
                    target = _Batch(key, servable, fetches, task.queued + self._parameters.batch_timeout_micros / 1e6)
                    opened.append(target)
                    room = self._parameters.max_execution_batch_size
                room -= task.size
                placed.append((target, task))
            if opened and len(queue) + len(opened) > self._parameters.max_enqueued_batches:
                raise RequestError(
                    "UNAVAILABLE",
                    "The batch scheduling queue to which this task was submitted is full; "
                    f"task size is {sum(task.size for task in tasks)} (num_enqueued_batches={len(queue)}, "
                    f"max_enqueued_batches={self._parameters.max_enqueued_batches})",
                )
            self._batches.extend(opened)
            for batch, task in placed:
                batch.tasks.append(task)
                batch.size += task.size
            self._changed.notify()

    def _abandon(self, tasks: list[_Task]) -> None:
        """Removes tasks whose caller no longer waits from the queues; parts that do not run yet never will."""
        with self._changed:
            for task in tasks:
                task.abandoned = True
            for batch in list(self._batches):
                kept = [task for task in batch.tasks if not task.abandoned]
                if len(kept) < len(batch.tasks):
                    batch.tasks, batch.size = kept, sum(task.size for task in kept)
                    if not kept:
                        self._batches.remove(batch)

    def _next(self) -> _Batch | None:
        """Waits for a batch that is full or due; returns None when the server stops."""
        with self._changed:
            while True:
                now = time.monotonic()
                for batch in self._batches:
                    if self._stopped or batch.due <= now or batch.size >= self._parameters.max_execution_batch_size:
                        self._batches.remove(batch)
                        return batch
                if self._stopped:
                    return None
                first = min((batch.due for batch in self._batches), default=None)
                self._changed.wait(None if first is None else first - now)

    def _work(self) -> None:
        while batch := self._next():
            tasks = [task for task in batch.tasks if not task.abandoned]
            started = time.monotonic()
            for task in tasks:
                latency = (started - task.queued) * 1e6
                monitoring.QUEUING_LATENCY.labels(self._parameters.thread_pool_name).observe(latency)
            try:
                if tasks:
                    self._run_together(batch, tasks)
            except RequestError as error:
                if len(tasks) == 1:
                    tasks[0].error = error
                else:
                    self._run_alone(batch, tasks)
            except Exception as error:  # if the thread died, its callers would wait forever
                for task in tasks:
                    task.error = RequestError("INTERNAL", f"{type(error).__name__}: {error}")
            for task in batch.tasks:
                task.done.set()

    def _run_alone(self, batch: _Batch, tasks: list[_Task]) -> None:
        for task in tasks:
            try:
                self._run_together(batch, [task])
            except RequestError as error:
                task.error = error

    def _run_together(self, batch: _Batch, tasks: list[_Task]) -> None:
        size = sum(task.size for task in tasks)
        padded = next((allowed for allowed in self._parameters.allowed_batch_sizes if allowed >= size), size)
        feeds = {name: _join([task.feeds[name] for task in tasks], padded - size) for name in tasks[0].feeds}
        monitoring.BATCH_PROCESSED_SIZE.observe(padded)
        monitoring.BATCH_PADDING.labels(str(padded)).observe(padded - size)
        monitoring.WRAPPED_RUN_COUNT.inc()
        outputs = batch.servable.run_now(feeds, batch.fetches)
        if len(tasks) == 1 and padded == size:
            tasks[0].outputs = outputs
            return
        for output in outputs:
            if not np.ndim(output):
                raise RequestError("FAILED_PRECONDITION", "Batched output tensor has 0 dimensions")
            if len(output) != padded:
                raise RequestError(
                    "FAILED_PRECONDITION",
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
        start = 0
        for task in tasks:
            task.outputs = [output[start : start + task.size] for output in outputs]
            start += task.size


def _batch_size(feeds: Mapping[str, np.ndarray]) -> int:
    sizes = set()
    for value in feeds.values():
        if not np.ndim(value):
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        sizes.add(len(value))
    if not sizes:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if len(sizes) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


def _join(values: list[np.ndarray], padding: int) -> np.ndarray:
    """Concatenates all rows; different shapes are padded with zeros, the batch with copies of its first row."""
    if len(values) == 1 and not padding:
        return values[0]
    shape = np.max([value.shape[1:] for value in values], axis=0).astype(int) if values[0].ndim > 1 else ()
    padded = []
    for value in values:
        width = [(0, 0), *((0, int(target - size)) for target, size in zip(shape, value.shape[1:], strict=True))]
        filler = b"" if value.dtype == object else 0
        padded.append(np.pad(value, width, constant_values=filler) if any(after for _, after in width) else value)
    return np.concatenate([*padded, *[padded[0][:1]] * padding])
