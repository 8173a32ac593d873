"""The results of a client's calls, and how they are read from a signature's outputs.

The functions raise InvalidArgumentError if the signature does not have these outputs.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from serving.errors import InvalidArgumentError, ServerError

Item = TypeVar("Item")

# An output of `serving_default` → the method, and the command, that reads it.
_METHODS = {"detection_boxes": "detect", "mask_png_bytes": "segment", "label": "predict", "predicted": "predict"}


class ScoredLabel(NamedTuple):
    """A class name and its probability, range [0, 1]."""

    label: str
    score: float


class Prediction(NamedTuple):
    """The classification of one image.

    Attributes:
      label: The most probable class; of a multi-label model all predicted classes, joined with `|`, and empty if none
        is predicted.
      score: The largest probability of a class, range [0, 1].
      top: The most probable classes, best first; of a multi-label model the predicted ones, unless `top_k` classes are
        requested.
      version: Model version; None if the server does not report it.
      labels: The predicted classes of a multi-label model, in the order of their ids; None for one class per image, and
        if `top_k` classes are requested.
      request_id: For `Client.feedback`.
    """

    label: str
    score: float
    top: tuple[ScoredLabel, ...]
    version: int | None = None
    labels: tuple[ScoredLabel, ...] | None = None
    request_id: str | None = None


class Mask(NamedTuple):
    """A class for every pixel of one image.

    Attributes:
      png: PNG of class ids, uint8, of the size of the upright image.
      class_pixels: Number of pixels per class, by class id.
      version: Model version; None if the server does not report it.
      request_id: For `Client.feedback`.
    """

    png: bytes
    class_pixels: tuple[int, ...]
    version: int | None = None
    request_id: str | None = None

    def class_ids(self) -> np.ndarray:
        """Returns the mask as an array, uint8 [h, w]."""
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(self.png)))


class DetectedObject(NamedTuple):
    """One object in an image.

    Attributes:
      box: (ymin, xmin, ymax, xmax), relative to the upright image, range [0, 1].
      score: Confidence, range [0, 1].
      class_id: Its class, from 1, as in the TF Object Detection API.
      label: The name of the class; None if the model does not return names.
    """

    box: tuple[float, float, float, float]
    score: float
    class_id: int
    label: str | None


class Detections(NamedTuple):
    """The objects in one image.

    Attributes:
      objects: The best first; as many as the model returns, of which those with a low score are rarely objects.
      version: Model version; None if the server does not report it.
      served_threshold: Smallest score of what the model counts as an object: the one with which its precision and its
        recall were measured. None if the model does not return it.
      request_id: For `Client.feedback`.
    """

    objects: tuple[DetectedObject, ...]
    version: int | None = None
    served_threshold: float | None = None
    request_id: str | None = None

    def above(self, score: float) -> tuple[DetectedObject, ...]:
        """Returns the objects with at least this score."""
        return tuple(entry for entry in self.objects if entry.score >= score)


class Explanation(NamedTuple):
    """The Grad-CAM heat map of one image, for the predicted class, or for one of several predictions.

    Attributes:
      heatmap: float32 [h, w], range [0, 1], of the size of the model input, over the whole image.
      overlay_png: The image with the heat map over it, a PNG file of the size of the upright image.
      class_id: The predicted class.
      label: Its name; None if the model does not return it.
      score: Its probability, range [0, 1].
      version: Model version; None if the server does not report it.
      request_id: For `Client.feedback`.
      box: The box of the explained detection (ymin, xmin, ymax, xmax), relative to the upright image; None if there is
        none, or the signature does not return it.
    """

    heatmap: np.ndarray
    overlay_png: bytes
    class_id: int
    label: str | None
    score: float
    version: int | None = None
    request_id: str | None = None
    box: tuple[float, ...] | None = None


class Embedding(NamedTuple):
    """The output of the model's penultimate layer for one image.

    Attributes:
      vector: float32 [D], unit length.
      version: Model version; None if the server does not report it. Embeddings of different versions are not
        comparable.
      request_id: For `Client.feedback`.
    """

    vector: np.ndarray
    version: int | None = None
    request_id: str | None = None


class RawOutputs(NamedTuple):
    """The outputs of a signature for one image, as the model returns them.

    Attributes:
      values: Output name → array without batch dimension; strings as bytes.
      version: Model version; None if the server does not report it.
      request_id: Of the request.
    """

    values: dict[str, np.ndarray]
    version: int | None = None
    request_id: str | None = None


class Responses(tuple[Item | ServerError, ...], Generic[Item]):
    """One entry per image, in the order of the images: its result or its error."""

    __slots__ = ()

    @property
    def errors(self) -> dict[int, ServerError]:
        """The errors, by index of the image."""
        return {index: entry for index, entry in enumerate(self) if isinstance(entry, ServerError)}

    @property
    def versions(self) -> list[int]:
        """The versions that responded, ascending: several if a new one was loaded meanwhile, none if not reported."""
        versions = {getattr(entry, "version", None) for entry in self}
        return sorted(version for version in versions if version is not None)

    def or_raise(self) -> list[Item]:
        """Returns the results.

        Raises:
          ServerError: The first error, if any image has one.
        """
        results: list[Item] = []
        for entry in self:
            if isinstance(entry, ServerError):
                raise entry
            results.append(entry)
        return results


class _VersionState(NamedTuple):
    version: int
    state: str


class VersionStatus(_VersionState):
    """One version of a model; it compares as the pair of its version and its state.

    Attributes:
      version: Its number.
      state: "START", "LOADING", "AVAILABLE", "UNLOADING", "END" or "UNKNOWN".
      error: Why it failed to load; empty if it did not.
    """

    error: str

    def __new__(cls, version: int, state: str, error: str = "") -> VersionStatus:
        """Takes number, state and error."""
        status = super().__new__(cls, version, state)
        status.error = error
        return status


class TensorSpec(NamedTuple):
    """An input or output of a signature.

    Attributes:
      dtype: TensorFlow's name, for example "DT_STRING".
      shape: Sizes, None for any size; None as a whole if the rank is unknown.
    """

    dtype: str
    shape: tuple[int | None, ...] | None


class SignatureSpec(NamedTuple):
    """Inputs and outputs of a signature, by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class ModelMetadata(NamedTuple):
    """The signatures of a model version.

    Attributes:
      version: The version.
      signatures: By name.
    """

    version: int
    signatures: dict[str, SignatureSpec]


def method_of(outputs: Iterable[str]) -> str | None:
    """Returns the method of a client, and the command, that reads these outputs of `serving_default`.

    Returns:
      `detect`, `segment` or `predict`; None for a model of another project.
    """
    names = set(outputs)
    return next((method for name, method in _METHODS.items() if name in names), None)


def with_request_id(result: Any, request_id: str) -> Any:
    """Returns the result of an image, or all its explanations, with the id of its request."""
    if hasattr(result, "_replace"):
        return result._replace(request_id=request_id)
    return tuple(explanation._replace(request_id=request_id) for explanation in result)


def predictions(outputs: Mapping[str, Any], version: int | None) -> list[Prediction]:
    """Reads `label` [N] and `score` [N] of `serving_default`, or the outputs of a multi-label model.

    These are `labels` [N], `predicted` [N, C] and `probabilities` [N, C].
    """
    if "predicted" in outputs:
        columns = _columns(outputs, ("labels", "predicted", "probabilities"))
        return [_label_set(_text(joined), chosen, row, version) for joined, chosen, row in zip(*columns, strict=True)]
    labels, scores = _columns(outputs, ("label", "score"))
    best = [ScoredLabel(_text(name), float(score)) for name, score in zip(labels, scores, strict=True)]
    return [Prediction(first.label, first.score, (first,), version) for first in best]


def _label_set(joined: str, predicted: Any, probabilities: Any, version: int | None) -> Prediction:
    scores = np.asarray(probabilities, np.float64)
    names = joined.split("|") if joined else []
    pairs = zip(names, scores[np.asarray(predicted, bool)].tolist(), strict=True)
    labels = tuple(ScoredLabel(name, score) for name, score in pairs)
    top = tuple(sorted(labels, key=lambda entry: -entry.score))
    return Prediction(joined, float(scores.max()), top, version, labels)


def top_predictions(outputs: Mapping[str, Any], version: int | None, top_k: int) -> list[Prediction]:
    """Reads `classes` [N, C] and `scores` [N, C] of `classify`."""
    classes, scores = _columns(outputs, ("classes", "scores"))
    ranked = []
    for row_names, row_scores in zip(classes, scores, strict=True):
        # Stable, so that equal scores stay in the order of the class ids on both protocols; NaN goes last.
        best = np.argsort(-np.asarray(row_scores, np.float64), kind="stable")[:top_k]
        top = tuple(ScoredLabel(_text(row_names[index]), float(row_scores[index])) for index in best.tolist())
        ranked.append(Prediction(top[0].label, top[0].score, top, version))
    return ranked


def masks(outputs: Mapping[str, Any], version: int | None) -> list[Mask]:
    """Reads `mask_png_bytes` [N] and `class_pixels` [N, C] of `serving_default`."""
    pngs, pixels = _columns(outputs, ("mask_png_bytes", "class_pixels"))
    return [Mask(png, tuple(int(count) for count in counts), version) for png, counts in zip(pngs, pixels, strict=True)]


def detections(outputs: Mapping[str, Any], version: int | None) -> list[Detections]:
    """Reads the outputs of the TF Object Detection API, of `serving_default`.

    These are `detection_boxes` [N, M, 4], `detection_scores` [N, M], `detection_classes` [N, M], `num_detections` [N]
    and, if present, `detection_labels` [N, M] and `served_threshold` [N].
    """
    names = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
    columns = _columns(outputs, names)
    labels, thresholds = (
        outputs.get(name, [None] * len(columns[0])) for name in ("detection_labels", "served_threshold")
    )
    return [
        # Of a float32 threshold the shortest decimal that is equal to it: 0.4.
        Detections(
            tuple(_objects(*row)[: round(float(num))]),
            version,
            None if threshold is None else float(str(np.float32(threshold))),
        )
        for *row, num, threshold in zip(*columns[:3], labels, columns[3], thresholds, strict=True)
    ]


def _objects(boxes: Any, scores: Any, class_ids: Any, labels: Any) -> list[DetectedObject]:
    names = [None] * len(scores) if labels is None else map(_text, labels)
    rows = zip(np.asarray(boxes, np.float64).tolist(), scores, class_ids, names, strict=True)
    return [DetectedObject(tuple(box), float(score), round(float(id_)), name) for box, score, id_, name in rows]


def explanations(outputs: Mapping[str, Any], version: int | None) -> list[Explanation]:
    """Reads `heatmap` [N, h, w], `overlay_png_bytes` [N], `class_id` [N], `score` [N] and, if present, `label` [N]."""
    columns = _columns(outputs, ("heatmap", "overlay_png_bytes", "class_id", "score"))
    labels = outputs.get("label", [None] * len(columns[0]))
    return [
        _explanation(heatmap, overlay, class_id, label, score, version)
        for heatmap, overlay, class_id, score, label in zip(*columns, labels, strict=True)
    ]


def explanation_sets(outputs: Mapping[str, Any], version: int | None) -> list[tuple[Explanation, ...]]:
    """Reads the outputs of `explain_labels` and `explain_detections`: several explanations per image, the best first.

    These are `heatmaps` [N, M, h, w], `overlay_png_bytes` [N, M], `class_ids` [N, M] (-1 for none), `labels` [N, M],
    `scores` [N, M] and, if present, `boxes` [N, M, 4].
    """
    columns = _columns(outputs, ("heatmaps", "overlay_png_bytes", "class_ids", "labels", "scores"))
    boxes = outputs.get("boxes", [[None] * len(ids) for ids in columns[2]])
    return [
        tuple(
            _explanation(heatmap, overlay, class_id, label, score, version, box)
            for heatmap, overlay, class_id, label, score, box in zip(*row, strict=True)
            if class_id >= 0
        )
        for row in zip(*columns, boxes, strict=True)
    ]


def _explanation(
    heatmap: Any, overlay: bytes, class_id: Any, label: Any, score: Any, version: int | None, box: Any = None
) -> Explanation:
    name = None if label is None else _text(label)
    corners = None if box is None else tuple(np.asarray(box, np.float64).tolist())
    return Explanation(
        np.asarray(heatmap, np.float32), overlay, int(class_id), name, float(score), version, box=corners
    )


def embeddings(outputs: Mapping[str, Any], version: int | None) -> list[Embedding]:
    """Reads `embedding` [N, D] of `embed`."""
    (vectors,) = _columns(outputs, ("embedding",))
    return [Embedding(np.asarray(vector, np.float32), version) for vector in vectors]


def raw_outputs(outputs: Mapping[str, Any], version: int | None) -> list[RawOutputs]:
    """Reads all outputs of a signature."""
    columns = {name: _as_array(values) for name, values in outputs.items()}
    num_images = len(next(iter(columns.values()), ()))
    return [RawOutputs({name: rows[index] for name, rows in columns.items()}, version) for index in range(num_images)]


def _as_array(values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "UO":
        return array
    encoded = [value.encode() if isinstance(value, str) else value for value in array.ravel().tolist()]
    strings = np.empty(array.size, object)
    strings[:] = encoded
    return strings.reshape(array.shape)


def _columns(outputs: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    if missing := [name for name in names if name not in outputs]:
        message = f"the model's response has no {_quoted(missing)}; it has {_quoted(outputs)}"
        if fitting := method_of(outputs):
            message += f": use `{fitting}`"
        raise InvalidArgumentError("FAILED_PRECONDITION", message)
    return [outputs[name] for name in names]


def _quoted(names: Iterable[str]) -> str:
    # REST omits the name of an only output.
    return " and ".join(f"`{name}`" if name else "one output" for name in names)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
