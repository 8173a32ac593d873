"""The heat maps of predictions, as tf.Examples and as PNG files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.grad_cam import artifact
from components.grad_cam.artifact import Box, ExplainedPrediction
from components.grad_cam.predictions import PredictionBatch, PredictionId
from components.grad_cam.selection import Selection
from trainer_module import features, geometry, locations, overlays, preprocessing
from trainer_module.grad_cam import ExplainedBatch
from trainer_module.model_input import Geometry
from trainer_module.options import TrainerOptions
from trainer_module.tasks import PredictionOutcomes

# Longer side of the images that are written, pixels: a photograph of a phone would take 20 MB.
_LARGEST_SIDE = 1024


class HeatMap(NamedTuple):
    """The heat map of one prediction.

    Attributes:
      filename: As in the dataset.
      sha256: Hash of the encoded image.
      encoded: The image file.
      values: float32 [*image_size], over the whole original image, range [0, 1].
      explained: The explained class.
      prediction_id: Its id, and that of the instance.
      box: The predicted box (ymin, xmin, ymax, xmax), relative to the original image; None if predictions have none.
      predicted: The predicted class.
      listed_id: Id of the class under which the prediction is listed.
      label: The class of the ground truth; None if there is not one class per image, or it is unknown.
      score: Probability of the explained class.
      correct: Whether the prediction is correct.
    """

    filename: str
    sha256: str
    encoded: bytes
    values: np.ndarray
    explained: str
    prediction_id: PredictionId
    box: Box | None
    predicted: str
    listed_id: int
    label: str | None
    score: float
    correct: bool


def from_batch(
    batch: PredictionBatch, explained: ExplainedBatch, outcomes: PredictionOutcomes, options: TrainerOptions
) -> list[HeatMap]:
    """Divides an explained batch into the heat maps of its predictions."""
    classes = options.classes
    values = geometry.restore_heatmaps(explained.heatmap, batch.sizes, options.transform.geometry).numpy()
    scores = explained.score.numpy()
    boxes: Sequence[Box | None] = [None] * len(scores)
    if explained.boxes is not None:
        one_each = explained.boxes[:, tf.newaxis]
        restored = geometry.boxes_in_image(one_each, batch.sizes, options.transform.geometry)[:, 0]
        corners = tf.clip_by_value(restored, 0.0, 1.0).numpy().tolist()
        boxes = [(ymin, xmin, ymax, xmax) for ymin, xmin, ymax, xmax in corners]
    heat_maps = []
    for i, (source, prediction_id) in enumerate(
        zip(batch.sources, batch.prediction_ids(explained.subject.class_ids), strict=True)
    ):
        listed_id = int(outcomes.listed_ids[i])
        true_id = -1 if outcomes.true_ids is None else int(outcomes.true_ids[i])
        heat_maps.append(
            HeatMap(
                filename=source.filename,
                sha256=source.sha256,
                encoded=source.encoded,
                values=values[i],
                explained=classes[prediction_id[0]],
                prediction_id=prediction_id,
                box=boxes[i],
                predicted=classes[int(outcomes.predicted_ids[i])],
                listed_id=listed_id if listed_id >= 0 else prediction_id[0],
                label=classes[true_id] if true_id >= 0 else None,
                score=float(scores[i]),
                correct=bool(outcomes.correct[i]),
            )
        )
    return heat_maps


def to_example(heat_map: HeatMap) -> tf.train.Example:
    """Converts a heat map to a tf.Example with the keys of `artifact`."""

    def text(value: str) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))

    def integer(value: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    height, width = heat_map.values.shape
    feature = {
        features.IMAGE_FILENAME: text(heat_map.filename),
        features.IMAGE_SHA256: text(heat_map.sha256),
        artifact.CLASS_ID: integer(heat_map.prediction_id[0]),
        artifact.INSTANCE_ID: integer(heat_map.prediction_id[1]),
        artifact.CLASS_TEXT: text(heat_map.explained),
        artifact.PREDICTED_TEXT: text(heat_map.predicted),
        artifact.SCORE: tf.train.Feature(float_list=tf.train.FloatList(value=[heat_map.score])),
        artifact.IS_CORRECT: integer(int(heat_map.correct)),
        artifact.HEATMAP: tf.train.Feature(float_list=tf.train.FloatList(value=heat_map.values.ravel())),
        artifact.HEIGHT: integer(height),
        artifact.WIDTH: integer(width),
    }
    if heat_map.label is not None:
        feature[artifact.TRUE_TEXT] = text(heat_map.label)
    if heat_map.box is not None:
        feature[artifact.BOX] = tf.train.Feature(float_list=tf.train.FloatList(value=heat_map.box))
    return tf.train.Example(features=tf.train.Features(feature=feature))


def write_images(
    heat_maps: Sequence[HeatMap], selection: Selection, options: TrainerOptions, colors: np.ndarray, output_dir: str
) -> list[ExplainedPrediction]:
    """Writes image, heat map and overlay of selected predictions as PNG files.

    Args:
      heat_maps: The heat maps; all are selected.
      selection: Why they were selected.
      options: `classes`, `transform` and `grad_cam` are read.
      colors: float32 [256, 3], from `overlays.color_table`.
      output_dir: Folder of the artifact.

    Returns:
      The entries of the index.
    """
    entries = []
    for heat_map in heat_maps:
        # Named by id and hash: names of classes and files are the user's text and may not be valid in a path.
        folder = f"{heat_map.listed_id:03d}"
        digest = hashlib.sha256(f"{heat_map.prediction_id} {heat_map.filename}".encode()).hexdigest()[:16]
        tf.io.gfile.makedirs(os.path.join(output_dir, folder))
        paths = {}
        for name, image in _draw(heat_map, options, colors).items():
            paths[name] = f"{folder}/{digest}-{name}.png"
            encoded = tf.io.encode_png(image, compression=overlays.FAST_COMPRESSION).numpy()
            locations.write(os.path.join(output_dir, paths[name]), bytes(encoded))
        entries.append(
            ExplainedPrediction(
                filename=heat_map.filename,
                label=options.classes[heat_map.listed_id],
                explained=heat_map.explained,
                predicted=heat_map.predicted,
                score=round(heat_map.score, 6),
                correct=heat_map.correct,
                empty=not heat_map.values.any(),
                reasons=tuple(selection[heat_map.filename][heat_map.prediction_id]),
                box=heat_map.box,
                **paths,
            )
        )
    return entries


def _draw(heat_map: HeatMap, options: TrainerOptions, colors: np.ndarray) -> dict[str, tf.Tensor]:
    """Draws image, heat map (grey) and overlay, all of one size: that of the image, within limits.

    Image and overlay show the outline of the predicted box.
    """
    image = overlays.enlarged(_reduced(preprocessing.decode(heat_map.encoded, options.transform.num_channels)))
    values = tf.constant(heat_map.values)
    resized = tf.image.resize(values[..., tf.newaxis], image.shape[:2])
    shown = image if image.shape[-1] == 3 else tf.image.grayscale_to_rgb(image)
    overlay = overlays.blend(image, values, colors, options.grad_cam.alpha)
    if heat_map.box is not None:
        shown, overlay = (overlays.outline(each, tf.constant(heat_map.box)) for each in (shown, overlay))
    return {"image": shown, "heatmap": tf.cast(tf.round(resized * 255.0), tf.uint8), "overlay": overlay}


def _reduced(image: tf.Tensor) -> tf.Tensor:
    """Reduces an image that is larger than is shown."""
    factor = _LARGEST_SIDE / max(image.shape[:2])
    if factor >= 1.0:
        return image
    size = [max(1, round(factor * side)) for side in image.shape[:2]]
    return geometry.resize_pixels(image, Geometry.of(size))
