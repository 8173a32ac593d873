"""Exchange ↔ PredictionLog: what a record contains, and where the images of a request are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from serving import tfrecord
from serving.local_server import dtypes, tensors
from serving.local_server.protos import example_pb2, model_pb2, predict_pb2, prediction_log_pb2
from serving.request_log.options import Content
from trainer_module import features

IMAGE_BYTES, EMBEDDING, _OVERLAY = "image_bytes", "embedding", "overlay_png_bytes"
# How long a record waits for the embedding of its images.
EMBEDDING_TIMEOUT_S = 10.0

# API → field of PredictionLog.
KINDS = {
    "Predict": "predict_log",
    "Classify": "classify_log",
    "Regress": "regress_log",
    "MultiInference": "multi_inference_log",
}

Fill = Callable[[prediction_log_pb2.PredictionLog], None]
# (model, version, images) → float32 [N, D], or None if the model has no signature `embed`.
Embed = Callable[[str, int, Sequence[bytes]], "np.ndarray | None"]


@dataclass(frozen=True)
class Exchange:
    """A request and its response.

    Attributes:
      request_id: Of the request.
      sampling_rate: The fraction of the requests that are logged.
      time_s: When the request was answered, seconds since 1970.
      size: About how many bytes both keep in memory.
      fill: Writes both into a PredictionLog.
    """

    request_id: str
    sampling_rate: float
    time_s: float
    size: int
    fill: Fill


def parts_of(log: prediction_log_pb2.PredictionLog, kind: str) -> tuple[Any, Any]:
    """Returns the request and the response of this kind of log."""
    value = getattr(log, kind)
    return value.request, value.response


def filler(api: str, request: Any, response: Any) -> Fill:
    """Returns what writes the messages of a call into a PredictionLog."""

    def fill(log: prediction_log_pb2.PredictionLog) -> None:
        first, second = parts_of(log, KINDS[api])
        first.CopyFrom(request)
        second.CopyFrom(response)

    return fill


def to_log(exchange: Exchange) -> prediction_log_pb2.PredictionLog:
    """Returns the exchange as a PredictionLog; `request_origin` of its metadata is the request id."""
    log = prediction_log_pb2.PredictionLog()
    exchange.fill(log)
    _fill_metadata(log, exchange)
    return log


def encode(log: prediction_log_pb2.PredictionLog, content: Content, embed: Embed) -> bytes:
    """Returns the records of an exchange, with their framing; removes what the content excludes.

    With the content `embedding` a second record follows, with the same id: a response of the signature `embed`.
    """
    if content is Content.IMAGE:
        return tfrecord.frame(log.SerializeToString())
    images = images_of(log) if content is Content.EMBEDDING else None
    _remove_images(log)
    framed = tfrecord.frame(log.SerializeToString())
    spec = log.log_metadata.model_spec
    if not images or spec.signature_name == features.EMBED:
        return framed
    embedding = embed(spec.name, spec.version.value, images)
    return framed if embedding is None else framed + tfrecord.frame(_embedding_log(log, embedding))


def parts(log: prediction_log_pb2.PredictionLog) -> tuple[Any, Any]:
    """Returns the request and the response of a log; both None for other kinds."""
    kind = log.WhichOneof("log_type")
    if kind not in KINDS.values():
        return None, None
    return parts_of(log, kind)


def images_of(log: prediction_log_pb2.PredictionLog) -> list[bytes] | None:
    """Returns the encoded images of a request: of `image_bytes`, or of serialized tf.Examples; None without any."""
    request, _ = parts(log)
    if request is None:
        return None
    if isinstance(request, predict_pb2.PredictRequest):
        return _images_of_tensors(request)
    kind = request.input.WhichOneof("kind")
    return _images_of_examples(getattr(request.input, kind).examples) if kind else None


def _images_of_tensors(request: predict_pb2.PredictRequest) -> list[bytes] | None:
    if len(request.inputs) != 1:
        return None
    alias = next(iter(request.inputs))
    tensor = request.inputs[alias]
    if tensor.dtype != dtypes.STRING.number:
        return None
    values: list[bytes] = tensors.to_numpy(tensor, alias).ravel().tolist()
    if alias == IMAGE_BYTES:
        return values
    try:
        return _images_of_examples([example_pb2.Example.FromString(value) for value in values])
    except DecodeError:
        return None


def _images_of_examples(examples: Iterable[example_pb2.Example]) -> list[bytes] | None:
    """Returns the image of every example; None if there is no example, or one does not contain one image."""
    images: list[bytes] = []
    for example in examples:
        feature = example.features.feature
        values = feature[features.IMAGE_ENCODED].bytes_list.value if features.IMAGE_ENCODED in feature else []
        if len(values) != 1:
            return None
        images.append(values[0])
    return images or None


def spec_of(response: Any) -> model_pb2.ModelSpec:
    """Returns the name, version and signature that responded."""
    results = getattr(response, "results", None)  # of MultiInference, all of one model
    return results[0].model_spec if results else response.model_spec


def _remove_images(log: prediction_log_pb2.PredictionLog) -> None:
    request, response = parts(log)
    if isinstance(request, predict_pb2.PredictRequest):
        request.ClearField("inputs")
        if request.model_spec.signature_name == features.TRANSFORM_FEATURES:  # the outputs are the pixels
            response.ClearField("outputs")
        response.outputs.pop(_OVERLAY, None)
    elif request is not None:
        request.ClearField("input")


def _fill_metadata(log: prediction_log_pb2.PredictionLog, exchange: Exchange) -> None:
    _, response = parts(log)
    metadata = log.log_metadata
    metadata.model_spec.CopyFrom(spec_of(response))
    metadata.sampling_config.sampling_rate = exchange.sampling_rate
    metadata.saved_model_tags.append("serve")
    metadata.timestamp_secs = int(exchange.time_s)
    metadata.request_origin = exchange.request_id


def _embedding_log(log: prediction_log_pb2.PredictionLog, embedding: np.ndarray) -> bytes:
    added = prediction_log_pb2.PredictionLog()
    added.log_metadata.CopyFrom(log.log_metadata)
    added.log_metadata.model_spec.signature_name = features.EMBED
    response = added.predict_log.response
    response.model_spec.CopyFrom(added.log_metadata.model_spec)
    tensors.to_proto(np.asarray(embedding, np.float32), response.outputs[EMBEDDING], as_content=True)
    serialized: bytes = added.SerializeToString()
    return serialized
