"""May the export be served: does it only compute, answer as the Keras model does, fast enough, small enough?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from components.serving_validator import graph_walk
from components.serving_validator.findings import Check
from components.serving_validator.options import ServingLimits
from trainer_module import features, tasks
from trainer_module.error_text import first_line
from trainer_module.options import TrainerOptions
from trainer_module.session_model import SessionModel

LOADS = "loads in a session"
# Requests of one picture: the first ones, which plan the graph and fill caches, are not timed.
WARM_UP_REQUESTS, TIMED_REQUESTS = 5, 50
# A ceiling on the median would let every second request miss it.
GATED_PERCENTILE = 95


def validate(
    export_dir: str,
    model: keras.Model,
    options: TrainerOptions,
    serialized_examples: Sequence[bytes],
    limits: ServingLimits,
) -> list[Check]:
    """Looks at the export, loads it in a session and asks it with real examples.

    Args:
      export_dir: The SavedModel.
      model: The trained Keras model, from pixels to logits.
      options: The configuration of the run.
      serialized_examples: Raw examples, at least one.
      limits: What the export must keep to.

    Returns:
      Every check that could be made; the export is good if all have passed. A model that holds an operation which is
      not allowed is not loaded, and one that cannot be loaded is not asked.
    """
    checks = [_size(export_dir, limits.max_size_mb), _operations(export_dir, limits.allowed_operations)]
    if not checks[-1].passed:
        return checks
    try:
        served = SessionModel(export_dir)
    except Exception as error:  # the loader's errors have no common class
        return [*checks, Check(LOADS, False, first_line(error))]
    try:
        return [*checks, *_ask(served, model, options, serialized_examples, limits)]
    finally:
        served.close()


def _size(export_dir: str, max_size_mb: float | None) -> Check:
    size = sum(
        tf.io.gfile.stat(os.path.join(folder, name)).length
        for folder, _, names in tf.io.gfile.walk(export_dir)
        for name in names
    )
    return _below("size in MB", size / 1e6, max_size_mb, f"{size / 1e6:.4g} MB")


def _operations(export_dir: str, further: Sequence[str]) -> Check:
    name = "only allowed operations"
    try:
        refused = graph_walk.not_allowed(graph_walk.read(export_dir), further)
    except graph_walk.UnreadableGraphError as error:
        return Check(name, False, str(error))
    if refused:
        listed = "; ".join(f"{operation.name} in {operation.place}" for operation in refused)
        return Check(name, False, f"{listed}. serving.allowed_operations can allow what is wanted")
    return Check(name, True, "it computes, and touches no file, process or network")


def _ask(
    served: SessionModel,
    model: keras.Model,
    options: TrainerOptions,
    serialized_examples: Sequence[bytes],
    limits: ServingLimits,
) -> list[Check]:
    export = tasks.get(options.task.name).export
    checks = [Check(LOADS, True, f"signatures: {', '.join(sorted(served.signatures))}")]
    missing = [name for name in export.required if name not in served.signatures]
    checks.append(Check("has all signatures", not missing, f"missing: {', '.join(missing)}" if missing else "yes"))
    image_bytes = [_image_of(serialized) for serialized in serialized_examples]
    expected = export.reference(model, options, image_bytes)
    for signature, values in (
        (features.SERVING_DEFAULT, image_bytes),
        (features.EXAMPLES, list(serialized_examples)),
    ):
        if signature in served.signatures:
            checks.append(_compare(served, signature, values, expected, options, limits.tolerance))
    for signature in (features.EXPLAIN, features.EMBED):
        if signature in served.signatures:
            checks.append(_answers(served, signature, image_bytes))
    if features.SERVING_DEFAULT in served.signatures:
        checks.append(_latency(served, image_bytes, limits.max_latency_ms))
    return checks


def _compare(
    served: SessionModel,
    signature: str,
    values: Sequence[bytes],
    expected: np.ndarray,
    options: TrainerOptions,
    tolerance: float,
) -> Check:
    name = f"{signature} agrees with the Keras model"
    try:
        found = tasks.get(options.task.name).export.compare(
            served.run_on(signature, values), expected, options, tolerance
        )
    except Exception as error:
        return Check(name, False, first_line(error))
    detail = f"{len(values)} examples, {found.detail}" if found.passed else found.detail
    return Check(name, found.passed, detail, found.difference, None if found.difference is None else tolerance)


def _answers(served: SessionModel, signature: str, image_bytes: Sequence[bytes]) -> Check:
    name = f"{signature} answers"
    try:
        answer = served.run_on(signature, image_bytes)
    except Exception as error:
        return Check(name, False, first_line(error))
    for output, value in answer.items():
        if len(value) != len(image_bytes):
            return Check(name, False, f"{output} has {len(value)} rows for {len(image_bytes)} pictures")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return Check(name, False, f"{output} is not finite")
    return Check(name, True, f"{len(image_bytes)} pictures")


def _latency(served: SessionModel, image_bytes: Sequence[bytes], max_latency_ms: float | None) -> Check:
    name = f"latency in ms, {GATED_PERCENTILE}th percentile"
    try:
        seconds = _time(lambda index: served.run_on(features.SERVING_DEFAULT, [image_bytes[index % len(image_bytes)]]))
    except Exception as error:
        return Check(name, False, first_line(error))
    median, gated = np.percentile(seconds, [50, GATED_PERCENTILE]) * 1000
    detail = (
        f"median {median:.4g} ms, {GATED_PERCENTILE}th percentile {gated:.4g} ms of {TIMED_REQUESTS} requests of one "
        "picture"
    )
    return _below(name, float(gated), max_latency_ms, detail)


def _time(request: Callable[[int], object]) -> list[float]:
    """Seconds that each of the timed requests takes; a request is given its number."""
    seconds = []
    for index in range(WARM_UP_REQUESTS + TIMED_REQUESTS):
        start = time.perf_counter()
        request(index)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP_REQUESTS:]


def _below(name: str, value: float, ceiling: float | None, detail: str) -> Check:
    if ceiling is None:
        return Check(name, True, detail, value)
    return Check(name, value <= ceiling, f"{detail}, allowed {ceiling:g}", value, ceiling)


def _image_of(serialized: bytes) -> bytes:
    example = tf.train.Example.FromString(serialized)
    return bytes(example.features.feature[features.IMAGE_ENCODED].bytes_list.value[0])
