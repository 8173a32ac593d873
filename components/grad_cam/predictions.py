"""The predictions that are explained for a batch of raw examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from components.evaluator.options import slice_name
from trainer_module import features, preprocessing, tasks
from trainer_module.options import TrainerOptions

# Values of `grad_cam.target` that are not the name of a class.
PREDICTED, TRUE = "predicted", "true"


class SourceImage(NamedTuple):
    """The image of a raw example.

    Attributes:
      filename: As in the dataset.
      sha256: Hash of the encoded image.
      encoded: The encoded image.
      slices: The slices that it belongs to, such as `camera = b`.
    """

    filename: str
    sha256: str
    encoded: bytes
    slices: tuple[str, ...]


class PredictionBatch(NamedTuple):
    """M predictions that are explained at once.

    Attributes:
      sources: Their images; an image occurs once per explained class.
      pixels: uint8 [M, *image_size, channels].
      sizes: int32 [M, 2], height and width of the original images, pixels.
      class_ids: int64 [M], the classes to explain; None for the predicted ones.
      regions: bool [M, *image_size], the regions to explain; None for those that the task chooses.
      ground_truth: [M, ...], from `TaskSpec.labels`.
    """

    sources: list[SourceImage]
    pixels: tf.Tensor
    sizes: tf.Tensor
    class_ids: tf.Tensor | None
    regions: tf.Tensor | None
    ground_truth: np.ndarray


def batch_size(options: TrainerOptions) -> int:
    """The largest number of predictions per batch, limited by the pixels that the task allows at once."""
    return tasks.get(options.task.name).explanation.images_at_once(options.transform.image_size)


def batches(serialized: Sequence[bytes], options: TrainerOptions, slices: Sequence[str]) -> Iterator[PredictionBatch]:
    """Reads raw examples and yields the predictions to explain.

    Args:
      serialized: Raw examples.
      options: `grad_cam.target` chooses the classes.
      slices: Names of the slices to read.
    """
    task, target = tasks.get(options.task.name), options.grad_cam.target
    explanation = task.explanation
    examples = [tf.train.Example.FromString(example).features.feature for example in serialized]
    sources = [_source(example, slices) for example in examples]
    images = preprocessing.decode_images(
        tf.constant([source.encoded for source in sources]), options.transform.geometry, options.transform.num_channels
    )
    image_sizes = [task.image_size(example) for example in examples]
    ground_truth = task.labels([task.raw_label(example) for example in examples], image_sizes, options).numpy()
    indices, class_ids = np.arange(len(sources)), None
    if target == TRUE:
        indices, class_ids = explanation.true_classes(ground_truth, options)
    elif target != PREDICTED:
        class_ids = np.full(len(sources), options.classes.index(target), np.int64)
    size = batch_size(options)
    for start in range(0, len(indices), size):
        part = indices[start : start + size]
        ids = None if class_ids is None else class_ids[start : start + size]
        regions = None
        if target == TRUE and ids is not None and explanation.true_regions:
            regions = tf.constant(explanation.true_regions(ground_truth[part], ids, options.transform.image_size))
        yield PredictionBatch(
            sources=[sources[index] for index in part],
            pixels=tf.gather(images.pixels, part),
            sizes=tf.gather(images.sizes, part),
            class_ids=None if ids is None else tf.constant(ids),
            regions=regions,
            ground_truth=ground_truth[part],
        )


def _source(example: Mapping[str, tf.train.Feature], slices: Sequence[str]) -> SourceImage:
    def values(key: str) -> list[bytes]:
        return list(example[key].bytes_list.value) if key in example else []

    pairs = [(key, value.decode()) for key in slices for value in values(features.SLICE_PREFIX + key)]
    return SourceImage(
        filename=values(features.IMAGE_FILENAME)[0].decode(),
        sha256=values(features.IMAGE_SHA256)[0].decode(),
        encoded=values(features.IMAGE_ENCODED)[0],
        slices=tuple(slice_name([pair]) for pair in pairs),
    )
