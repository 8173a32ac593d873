"""Embeddings of image files: from a pre-trained backbone, or from an exported model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from trainer_module import backbones, features
from trainer_module.error_text import first_line
from trainer_module.model_input import Geometry

BATCH_SIZE = 64

# Contents of JPEG, PNG or GIF files, N of them → float32 [N, D].
Embed = Callable[[Sequence[bytes]], np.ndarray]


class NoEmbeddingError(ValueError):
    """The model cannot compute embeddings; the message says why."""


def from_backbone(name: str, *, weights: str, geometry: Geometry) -> Embed:
    """Returns the mean of the last feature map over all positions.

    Args:
      name: Of the backbone.
      weights: As in `Backbone.build`.
      geometry: Size that images are resized to, and how.

    Raises:
      MissingWeightsError: If the weights are not available.

    Reference: Donahue et al. 2014, https://arxiv.org/abs/1310.1531, section 3 (activations as fixed features).
    """
    import tensorflow as tf

    from trainer_module import preprocessing
    from trainer_module.fused_normalization import fused

    backbone = backbones.get(name).build(image_size=geometry.size, weights=weights)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def compute(encoded: tf.Tensor) -> tf.Tensor:
        pixels = preprocessing.decode_and_resize(encoded, geometry, 3)
        return tf.reduce_mean(tf.cast(backbone(tf.cast(pixels, tf.float32), training=False), tf.float32), axis=[1, 2])

    with fused(backbone):
        traced = compute.get_concrete_function()
    return lambda encoded: np.asarray(traced(tf.constant(list(encoded))))


def from_saved_model(export_dir: str) -> Embed:
    """Returns what the signature `embed` of an exported model computes.

    Args:
      export_dir: Folder with `saved_model.pb`.

    Raises:
      NoEmbeddingError: If the folder does not contain a model with such a signature.
    """
    from trainer_module.session_model import SessionModel

    try:
        model = SessionModel(export_dir)
    except Exception as error:  # the errors of the loader have no common class
        raise NoEmbeddingError(f"{export_dir} is not a SavedModel that can be loaded: {first_line(error)}") from None
    if features.EMBED not in model.signatures:
        raise NoEmbeddingError(
            f"{export_dir} has no signature `{features.EMBED}` (it has {', '.join(model.signatures)}). Use a model that"
            " tfx-vision has pushed."
        )
    return lambda encoded: np.asarray(model.run_on(features.EMBED, encoded)["embedding"])


def embed_all(embed: Embed, encoded: Iterable[bytes], batch_size: int = BATCH_SIZE) -> np.ndarray:
    """Computes the embeddings of any number of files in batches: float32 [N, D]."""
    batches = list(map(embed, _batches(encoded, batch_size)))
    return np.concatenate(batches) if batches else np.zeros((0, 0), np.float32)


def _batches(encoded: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    remaining = iter(encoded)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
