"""What a model has decided of pictures, how sure it was, and whether it was right: what explanations are chosen by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.evaluator.options import slice_name
from trainer_module import features, grad_cam, preprocessing
from trainer_module.options import TrainerOptions
from trainer_module.tasks.segmentation import masks_of

PREDICTED, TRUE = "predicted", "true"
# With masks a decision is right where the region and the truth cover each other so far.
_RIGHT_IOU = 0.5


class Row(NamedTuple):
    """What is read of a raw example.

    Attributes:
      filename: As in the data.
      sha256: Of the picture's bytes.
      encoded: The picture's bytes.
      truth: The class's id; -1 with masks, and where the name is none of the classes.
      mask: The mask's bytes; empty for whole pictures.
      slices: The slices that it belongs to, as `camera = b`.
    """

    filename: str
    sha256: str
    encoded: bytes
    truth: int
    mask: bytes
    slices: tuple[str, ...]


class Batch(NamedTuple):
    """What is asked of a model at once: a decision a row.

    Attributes:
      rows: Their raw examples; a picture of several explained classes occurs several times.
      pixels: uint8 [M, s, s, channels].
      class_ids: int64 [M], or None for the predicted class.
      regions: bool [M, s, s], or None for the pixels where that class is predicted.
      masks: uint8 [M, s, s], the truth; None for whole pictures.
    """

    rows: list[Row]
    pixels: tf.Tensor
    class_ids: tf.Tensor | None
    regions: tf.Tensor | None
    masks: np.ndarray | None


class Verdicts(NamedTuple):
    """What became of the decisions of a batch.

    Attributes:
      class_ids: int [M], the explained class.
      predicted: int [M], the predicted class; with masks the explained one.
      scores: float [M], the explained class's probability.
      confidence: float [M], how sure the model was of what it predicted.
      margin: float [M], by how much the most probable class is ahead of the next.
      right: bool [M].
      exists: bool [M], whether there is anything to explain: with masks, whether the region has pixels.
    """

    class_ids: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    confidence: np.ndarray
    margin: np.ndarray
    right: np.ndarray
    exists: np.ndarray


def read(serialized: bytes, options: TrainerOptions, slices: Sequence[str]) -> Row:
    """Reads a raw example.

    Args:
      serialized: The example.
      options: `classes` are read.
      slices: Names of the slices whose values are told.
    """
    feature = tf.train.Example.FromString(serialized).features.feature

    def values(key: str) -> list[bytes]:
        return list(feature[key].bytes_list.value) if key in feature else []

    name = next((value.decode() for value in values(features.CLASS_TEXT)), None)
    of_slices = [(key, value.decode()) for key in slices for value in values(features.SLICE_PREFIX + key)]
    return Row(
        filename=values(features.IMAGE_FILENAME)[0].decode(),
        sha256=values(features.IMAGE_SHA256)[0].decode(),
        encoded=values(features.IMAGE_ENCODED)[0],
        truth=options.classes.index(name) if name in options.classes else -1,
        mask=next(iter(values(features.MASK_ENCODED)), b""),
        slices=tuple(slice_name([pair]) for pair in of_slices),
    )


def batches(rows: Sequence[Row], options: TrainerOptions, size: int) -> Iterator[Batch]:
    """The decisions of some pictures, in batches of at most `size`.

    Args:
      rows: The pictures.
      options: `grad_cam.target` says which class is asked for.
      size: Most decisions a batch.
    """
    transform, target = options.transform, options.grad_cam.target
    pixels = preprocessing.decode_and_resize(
        tf.constant([row.encoded for row in rows]), transform.image_size, transform.channels
    )
    masks: np.ndarray | None = None
    if options.task.name == "segmentation":
        encoded = tf.constant([row.mask for row in rows])
        masks = preprocessing.decode_and_resize_masks(encoded, transform.image_size).numpy()
    indices = [*range(len(rows))]
    class_ids: np.ndarray | None = None
    if target == TRUE and masks is not None:
        pairs = [
            (index, class_id)
            for index, mask in enumerate(masks)
            for class_id in np.unique(mask)
            if class_id != options.ignore_id and class_id < len(options.classes)
        ]
        indices, class_ids = [index for index, _ in pairs], np.array([class_id for _, class_id in pairs], np.int64)
    elif target == TRUE:
        indices = [index for index, row in enumerate(rows) if row.truth >= 0]
        class_ids = np.array([rows[index].truth for index in indices], np.int64)
    elif target != PREDICTED:
        class_ids = np.full(len(rows), options.classes.index(target), np.int64)
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        ids = None if class_ids is None else class_ids[start : start + size]
        of_part = None if masks is None else masks[part]
        regions: np.ndarray | None = None
        if target == TRUE and of_part is not None and ids is not None:
            regions = of_part == ids[:, np.newaxis, np.newaxis]
        yield Batch(
            [rows[index] for index in part],
            tf.gather(pixels, part),
            None if ids is None else tf.constant(ids),
            None if regions is None else tf.constant(regions),
            of_part,
        )


def judge(logits: tf.Tensor, batch: Batch, options: TrainerOptions) -> Verdicts:
    """What the model's answer comes to.

    Args:
      logits: float32 [M, num_classes] or [M, s, s, num_classes].
      batch: What was asked.
      options: `ignore_id` is read.
    """
    if batch.masks is not None:
        return _judge_masks(logits, batch, batch.masks, options.ignore_id)
    best, ids = (value.numpy() for value in tf.math.top_k(tf.nn.softmax(logits), 2))
    predicted = ids[:, 0].astype(np.int64)
    class_ids = predicted if batch.class_ids is None else batch.class_ids.numpy()
    return Verdicts(
        class_ids=class_ids,
        predicted=predicted,
        scores=grad_cam.scores(logits, tf.constant(class_ids)).numpy(),
        confidence=best[:, 0],
        margin=best[:, 0] - best[:, 1],
        right=predicted == [row.truth for row in batch.rows],
        exists=np.full(len(predicted), True),
    )


def _judge_masks(logits: tf.Tensor, batch: Batch, masks: np.ndarray, ignore_id: int | None) -> Verdicts:
    chosen, region = grad_cam.target(logits, batch.class_ids, batch.regions)
    class_ids, regions = chosen.numpy(), region.numpy()
    best, _ = (value.numpy() for value in tf.math.top_k(tf.nn.softmax(logits), 2))
    sizes = regions.sum(axis=(1, 2))
    scores = grad_cam.scores(logits, chosen, region).numpy()
    margins = np.where(regions, best[..., 0] - best[..., 1], 0.0).sum(axis=(1, 2)) / np.maximum(sizes, 1)
    of_class = class_ids[:, np.newaxis, np.newaxis]
    counted = masks != (-1 if ignore_id is None else ignore_id)
    found, truth = (masks_of(logits).numpy() == of_class) & counted, masks == of_class
    union = (found | truth).sum(axis=(1, 2))
    iou = (found & truth).sum(axis=(1, 2)) / np.maximum(union, 1)
    return Verdicts(class_ids, class_ids, scores, scores, margins, iou >= _RIGHT_IOU, sizes > 0)
