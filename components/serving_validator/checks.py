"""Checks whether an export may be served: allowed operations, equal responses, latency and size."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from components.serving_validator import graph_walk
from components.serving_validator.artifact import ServingCheck, ServingCheckReport
from components.serving_validator.options import ServingLimits
from trainer_module import features, tasks
from trainer_module.error_text import first_line
from trainer_module.options import TrainerOptions
from trainer_module.session_model import SessionModel
from trainer_module.tasks import TaskSpec

LOADS = "loads in a session"
# Requests with one image. The first ones, in which TensorFlow plans the graph and fills caches, are not timed.
WARM_UP_REQUESTS, TIMED_REQUESTS = 5, 50
# With a bound on the median, every second request could exceed it.
GATED_PERCENTILE = 95


def check_export(
    export_dir: str,
    model: keras.Model,
    options: TrainerOptions,
    serialized_examples: Sequence[bytes],
    limits: ServingLimits,
) -> ServingCheckReport:
    """Inspects an export, loads it in a session and sends it real examples.

    Args:
      export_dir: The SavedModel.
      model: The trained Keras model, from pixels to logits.
      options: The configuration of the run.
      serialized_examples: Raw examples, at least one.
      limits: The bounds of the checks.

    Returns:
      Every check that could be made. A model with an operation that is not allowed is not loaded, and a model that
      cannot be loaded receives no request.
    """
    checks = [_size(export_dir, limits.max_size_mb), _operations(export_dir, limits.allowed_operations)]
    if checks[-1].passed:
        try:
            served = SessionModel(export_dir)
        except Exception as error:  # the errors of the loader have no common class
            checks.append(ServingCheck(name=LOADS, passed=False, detail=first_line(error)))
        else:
            try:
                checks += _requests(served, model, options, serialized_examples, limits)
            finally:
                served.close()
    return ServingCheckReport(checks=tuple(checks))


def _size(export_dir: str, max_size_mb: float | None) -> ServingCheck:
    size = sum(
        tf.io.gfile.stat(os.path.join(folder, name)).length
        for folder, _, names in tf.io.gfile.walk(export_dir)
        for name in names
    )
    return _at_most("size in MB", size / 1e6, max_size_mb, f"{size / 1e6:.4g} MB")


def _operations(export_dir: str, allowed: Sequence[str]) -> ServingCheck:
    name = "only allowed operations"
    try:
        refused = graph_walk.not_allowed(graph_walk.read(export_dir), allowed)
    except graph_walk.UnreadableGraphError as error:
        return ServingCheck(name=name, passed=False, detail=str(error))
    if refused:
        listed = "; ".join(f"{operation.name} in {operation.place}" for operation in refused)
        detail = f"{listed}. To allow an operation, add it to serving.allowed_operations"
        return ServingCheck(name=name, passed=False, detail=detail)
    detail = "it only computes and does not access files, processes or the network"
    return ServingCheck(name=name, passed=True, detail=detail)


def _requests(
    served: SessionModel,
    model: keras.Model,
    options: TrainerOptions,
    serialized_examples: Sequence[bytes],
    limits: ServingLimits,
) -> list[ServingCheck]:
    """The checks of a loaded model."""
    task = tasks.get(options.task.name)
    missing = ", ".join(name for name in task.export.required if name not in served.signatures)
    checks = [
        ServingCheck(name=LOADS, passed=True, detail=f"signatures: {', '.join(sorted(served.signatures))}"),
        ServingCheck(
            name="has all signatures", passed=not missing, detail=f"missing: {missing}" if missing else "none missing"
        ),
    ]
    image_bytes = [_image_of(serialized) for serialized in serialized_examples]
    # The activations of large images need much memory, and gradients those of all layers.
    at_once = task.explanation.images_at_once(options.largest_view)
    reference = task.predict(model, options, image_bytes)
    for signature, values in (
        (features.SERVING_DEFAULT, image_bytes),
        (features.EXAMPLES, list(serialized_examples)),
    ):
        if signature in served.signatures:
            checks.append(_agreement(served, signature, values, task, reference, options, limits.tolerance, at_once))
    for signature in (*features.EXPLANATIONS, features.EMBED):
        if signature in served.signatures:
            checks.append(_response(served, signature, image_bytes, at_once))
    if features.SERVING_DEFAULT in served.signatures:
        checks.append(_latency(served, image_bytes, limits.max_latency_ms))
    return checks


def _agreement(
    served: SessionModel,
    signature: str,
    values: Sequence[bytes],
    task: TaskSpec,
    reference: Sequence[np.ndarray],
    options: TrainerOptions,
    tolerance: float,
    at_once: int,
) -> ServingCheck:
    """Compares the responses of a signature, to `at_once` images each, with the predictions of the Keras model."""
    name = f"{signature} agrees with the Keras model"
    try:
        responses = [served.run_on(signature, some) for some in _batches(values, at_once)]
        response = {output: np.concatenate([part[output] for part in responses]) for output in responses[0]}
        agreement = task.export.compare(response, reference, options, tolerance)
    except Exception as error:
        return ServingCheck(name=name, passed=False, detail=first_line(error))
    return ServingCheck(
        name=name,
        passed=agreement.passed,
        detail=f"{len(values)} examples, {agreement.detail}" if agreement.passed else agreement.detail,
        value=agreement.difference,
        bound=None if agreement.difference is None else tolerance,
    )


def _response(served: SessionModel, signature: str, image_bytes: Sequence[bytes], at_once: int) -> ServingCheck:
    """Checks that a signature returns one finite row per image, with at most `at_once` images per request."""
    name = f"{signature} responds"
    for images in _batches(image_bytes, at_once):
        try:
            response = served.run_on(signature, images)
        except Exception as error:
            return ServingCheck(name=name, passed=False, detail=first_line(error))
        for output, value in response.items():
            if len(value) != len(images):
                detail = f"{output} has {len(value)} rows for {len(images)} images"
                return ServingCheck(name=name, passed=False, detail=detail)
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return ServingCheck(name=name, passed=False, detail=f"{output} is not finite")
    return ServingCheck(name=name, passed=True, detail=f"{len(image_bytes)} images")


def _batches(values: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    return (values[first : first + size] for first in range(0, len(values), size))


def _latency(served: SessionModel, image_bytes: Sequence[bytes], max_latency_ms: float | None) -> ServingCheck:
    name = f"latency in ms, {GATED_PERCENTILE}th percentile"
    try:
        seconds = _time(lambda index: served.run_on(features.SERVING_DEFAULT, [image_bytes[index % len(image_bytes)]]))
    except Exception as error:
        return ServingCheck(name=name, passed=False, detail=first_line(error))
    median, gated = np.percentile(seconds, [50, GATED_PERCENTILE]) * 1000
    detail = (
        f"median {median:.4g} ms, {GATED_PERCENTILE}th percentile {gated:.4g} ms of {TIMED_REQUESTS} requests with one "
        "image"
    )
    return _at_most(name, float(gated), max_latency_ms, detail)


def _time(request: Callable[[int], object]) -> list[float]:
    """Measures the duration of every timed request, in seconds; `request` receives its number."""
    seconds = []
    for index in range(WARM_UP_REQUESTS + TIMED_REQUESTS):
        start = time.perf_counter()
        request(index)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP_REQUESTS:]


def _at_most(name: str, value: float, bound: float | None, detail: str) -> ServingCheck:
    if bound is None:
        return ServingCheck(name=name, passed=True, detail=detail, value=value)
    return ServingCheck(
        name=name, passed=value <= bound, detail=f"{detail}, allowed {bound:g}", value=value, bound=bound
    )


def _image_of(serialized: bytes) -> bytes:
    example = tf.train.Example.FromString(serialized)
    return bytes(example.features.feature[features.IMAGE_ENCODED].bytes_list.value[0])
