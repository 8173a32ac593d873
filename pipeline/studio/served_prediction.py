"""The predictions of a model server for one image, as plain values for the page."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import numpy as np

from pipeline.studio.model_server import ModelServer
from serving.client import Client, Detections, Embedding, Explanation, Mask, Prediction, ServerError
from trainer_module import features
from trainer_module.mask_drawing import BACKGROUND, palette

# Number of classes that are listed.
_TOP_K = 10


class ServedPrediction(NamedTuple):
    """Everything that a model returned for one image.

    Attributes:
      view: Values for the page.
      embedding: float32 [D], unit length; None if the model has no such signature.
    """

    view: dict[str, Any]
    embedding: np.ndarray | None


def request(
    server: ModelServer, pool: Executor, model: str, version: int, image: bytes, classes: Sequence[str]
) -> ServedPrediction:
    """Sends an image to all signatures of a model version at the same time.

    Args:
      server: The model server.
      pool: Runs the requests.
      model: Name of the model.
      version: The version.
      image: The file.
      classes: Class names by id, for masks, whose response has none.

    Raises:
      ServerError: If the model refuses the image, or the server fails.
    """
    started = time.monotonic()
    client, method = server.client(model, version), server.method(model, version) or "predict"

    def submit(call: Callable[[], Any]) -> Future[Any]:
        return pool.submit(call)

    prediction = submit(lambda: getattr(client, method)([image]).or_raise()[0])
    heatmaps = submit(lambda: _heatmaps(server, client, model, version, image))
    embedding = submit(lambda: _embedding(server, client, model, version, image))
    ranked = submit(lambda: _ranked(server, client, model, version, image))
    result = prediction.result()
    view: dict[str, Any] = {"version": version, "method": method, "notes": [], "scores": [], "heatmaps": []}
    view |= _VIEWS[type(result)](result, classes)
    for name, future in (("heatmaps", heatmaps), ("scores", ranked)):
        try:
            view[name] = future.result() or view[name]
        except ServerError as error:
            view["notes"].append(f"{name}: {error.message}")
    vector: Embedding | None = embedding.result()
    view["milliseconds"] = round((time.monotonic() - started) * 1000)
    return ServedPrediction(view, None if vector is None else vector.vector)


def _ranked(server: ModelServer, client: Client, model: str, version: int, image: bytes) -> list[dict[str, Any]]:
    if not server.has_signature(model, version, features.CLASSIFY):
        return []
    return [entry._asdict() for entry in client.predict([image], _TOP_K).or_raise()[0].top]


def _heatmaps(server: ModelServer, client: Client, model: str, version: int, image: bytes) -> list[dict[str, Any]]:
    """Returns the heat maps of all predicted classes or objects if the model has them, otherwise of the best one."""
    explanations: Sequence[Explanation] = ()
    for signature, explain in (
        (features.EXPLAIN_LABELS, client.explain_labels),
        (features.EXPLAIN_DETECTIONS, client.explain_detections),
    ):
        if server.has_signature(model, version, signature):
            explanations = explain([image]).or_raise()[0]
    if not explanations and server.has_signature(model, version, features.EXPLAIN):
        explanations = client.explain([image]).or_raise()
    return [
        {
            "label": explanation.label or f"class {explanation.class_id}",
            "score": explanation.score,
            "png": _grey_png(np.round(np.clip(explanation.heatmap, 0.0, 1.0) * 255).astype(np.uint8)),
            "empty": not explanation.heatmap.any(),
        }
        for explanation in explanations
    ]


def _embedding(server: ModelServer, client: Client, model: str, version: int, image: bytes) -> Embedding | None:
    if not server.has_signature(model, version, features.EMBED):
        return None
    return client.embed([image]).or_raise()[0]


def _grey_png(values: np.ndarray) -> str:
    """Encodes uint8 [h, w] as a PNG file in base64."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _labels(prediction: Prediction, classes: Sequence[str]) -> dict[str, Any]:
    labels = prediction.top[:1] if prediction.labels is None else prediction.labels
    return {
        "labels": [entry._asdict() for entry in labels],
        "scores_title": "Probability",
        "summary": prediction.label or "no class",
    }


def _mask(mask: Mask, classes: Sequence[str]) -> dict[str, Any]:
    num_classes, total = len(mask.class_pixels), sum(mask.class_pixels) or 1
    names = [classes[id_] if id_ < len(classes) else f"class {id_}" for id_ in range(num_classes)]
    rows: list[dict[str, Any]] = [
        {
            "id": id_,
            "name": names[id_],
            "color": color,
            "share": mask.class_pixels[id_] / total,
            "shown": names[id_] != BACKGROUND,
        }
        for id_, color in enumerate(palette(num_classes))
        if mask.class_pixels[id_]
    ]
    rows.sort(key=lambda row: -row["share"])
    inside = [row["name"] for row in rows if row["shown"]]
    return {
        "mask": {"png": base64.b64encode(mask.png).decode(), "classes": rows},
        "scores": [{"label": row["name"], "score": row["share"]} for row in rows[:_TOP_K]],
        "scores_title": "Share of the pixels",
        "summary": ", ".join(inside[:_TOP_K]) or "only background",
    }


def _boxes(detections: Detections, classes: Sequence[str]) -> dict[str, Any]:
    threshold = detections.served_threshold
    largest = max((entry.class_id for entry in detections.objects), default=0)
    colors = palette(max(largest, len(classes)))
    objects = [
        {
            "box": entry.box,
            "score": entry.score,
            "name": entry.label or f"class {entry.class_id}",
            "color": colors[entry.class_id - 1],
        }
        for entry in detections.objects
    ]
    shown = len(detections.above(0.5 if threshold is None else threshold))
    return {
        "boxes": {"objects": objects, "threshold": 0.5 if threshold is None else threshold},
        "scores_title": "Score",
        "summary": f"{shown} {'object' if shown == 1 else 'objects'}" if shown else _no_objects(detections),
    }


def _no_objects(detections: Detections) -> str:
    best = max((entry.score for entry in detections.objects), default=None)
    return "no objects" if best is None else f"no objects; the best score is {best:.2f}"


_VIEWS: dict[type[Any], Callable[[Any, Sequence[str]], dict[str, Any]]] = {
    Prediction: _labels,
    Mask: _mask,
    Detections: _boxes,
}
