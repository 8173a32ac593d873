"""The predictions that are explained for a batch of raw examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components.evaluator.options import slice_name
from trainer_module import features, preprocessing, tasks
from trainer_module.options import TrainerOptions
from trainer_module.tasks import Instances, Subject

# Which prediction of an image: (id of the explained class, id of the instance), see `tasks.Instances`.
PredictionId = tuple[int, int]

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


class ImageBatch(NamedTuple):
    """N images, each with any number of predictions.

    Attributes:
      sources: Where they come from.
      pixels: uint8 [N, *image_size, channels].
      sizes: int32 [N, 2], height and width of the original images, pixels.
      ground_truth: [N, ...], from `TaskSpec.labels`.
    """

    sources: list[SourceImage]
    pixels: tf.Tensor
    sizes: tf.Tensor
    ground_truth: np.ndarray


class PredictionBatch(NamedTuple):
    """M predictions that are explained at once.

    Attributes:
      sources: Their images; an image occurs once per explained prediction.
      indices: int [M], their images in the batch of images.
      pixels: uint8 [M, *image_size, channels].
      sizes: int32 [M, 2], height and width of the original images, pixels.
      subject: What is explained; the task chooses what is None.
      instance_ids: See `tasks.Instances`; zeros if an image has at most one of a class.
      ground_truth: [M, ...], from `TaskSpec.labels`.
    """

    sources: list[SourceImage]
    indices: np.ndarray
    pixels: tf.Tensor
    sizes: tf.Tensor
    subject: Subject
    instance_ids: list[int]
    ground_truth: np.ndarray

    def prediction_ids(self, class_ids: tf.Tensor) -> list[PredictionId]:
        """Returns which prediction of its image each one is, by the explained classes int64 [M]."""
        return list(zip(class_ids.numpy().tolist(), self.instance_ids, strict=True))


def batch_size(options: TrainerOptions) -> int:
    """The largest number of predictions per batch, limited by the pixels that the task allows at once."""
    return tasks.get(options.task.name).explanation.images_at_once(options.largest_view)


def lists_predictions(options: TrainerOptions) -> bool:
    """Whether the predictions to explain are known only when the network has run."""
    explanation = tasks.get(options.task.name).explanation
    return options.grad_cam.target == PREDICTED and explanation.predicted_instances is not None


def read_images(serialized: Sequence[bytes], options: TrainerOptions, slices: Sequence[str]) -> ImageBatch:
    """Decodes raw examples.

    Args:
      serialized: Raw examples.
      options: The configuration of the run.
      slices: Names of the slices to read.
    """
    task = tasks.get(options.task.name)
    examples = [tf.train.Example.FromString(example).features.feature for example in serialized]
    sources = [_source(example, slices) for example in examples]
    images = preprocessing.decode_images(
        tf.constant([source.encoded for source in sources]), options.transform.geometry, options.transform.num_channels
    )
    image_sizes = [task.image_size(example) for example in examples]
    labels = task.labels([task.raw_label(example) for example in examples], image_sizes, options)
    return ImageBatch(sources, images.pixels, images.sizes, labels.numpy())


def batches(
    images: ImageBatch,
    options: TrainerOptions,
    outputs: Any = None,
    is_needed: Callable[[str, PredictionId], bool] = lambda filename, prediction_id: True,
) -> Iterator[PredictionBatch]:
    """Yields the predictions to explain.

    Args:
      images: The images.
      options: `grad_cam.target` chooses the classes.
      outputs: Of the network for the images; read if `lists_predictions`.
      is_needed: (file name, prediction) → whether to explain it; asked only about predictions that are listed.
    """
    instances = _instances(images, options, outputs)
    numbers = np.arange(len(instances.indices))
    instance_ids = np.zeros_like(numbers) if instances.ids is None else instances.ids
    if instances.subject.class_ids is not None:
        ids = zip(np.asarray(instances.subject.class_ids).tolist(), instance_ids.tolist(), strict=True)
        names = [images.sources[index].filename for index in instances.indices]
        numbers = numbers[[is_needed(*each) for each in zip(names, ids, strict=True)]]
    size = batch_size(options)
    for start in range(0, len(numbers), size):
        part = numbers[start : start + size]
        indices = instances.indices[part]
        yield PredictionBatch(
            sources=[images.sources[index] for index in indices],
            indices=indices,
            pixels=tf.gather(images.pixels, indices),
            sizes=tf.gather(images.sizes, indices),
            subject=Subject(*(None if values is None else tf.constant(values[part]) for values in instances.subject)),
            instance_ids=instance_ids[part].tolist(),
            ground_truth=images.ground_truth[indices],
        )


def _instances(images: ImageBatch, options: TrainerOptions, outputs: Any) -> Instances:
    explanation, target = tasks.get(options.task.name).explanation, options.grad_cam.target
    if target == TRUE:
        return explanation.true_instances(images.ground_truth, options)
    one_each = np.arange(len(images.sources))
    if target != PREDICTED:
        return Instances(one_each, Subject(np.full(len(one_each), options.classes.index(target), np.int64)))
    if explanation.predicted_instances:
        return explanation.predicted_instances(outputs, images.sizes, options)
    return Instances(one_each, Subject())


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
