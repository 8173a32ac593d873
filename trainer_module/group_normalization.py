"""Normalisation of the layers of a detector, which does not depend on the batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

_NUM_GROUPS = 8


def normalize(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Normalises the channels of every image in groups, 8 if that divides their number.

    Batches of a detector are small, and its coarsest maps have few positions: the statistics of a batch differ so much
    from their moving averages that a model is good in training and useless in evaluation in some epochs.

    Args:
      x: float [N, h, w, c].
      name: Name of the layer.

    Reference: Wu & He 2018, https://arxiv.org/abs/1803.08494, section 3.
    """
    from keras import layers

    groups = math.gcd(_NUM_GROUPS, x.shape[-1])
    output: keras.KerasTensor = layers.GroupNormalization(groups, epsilon=1e-5, name=name)(x)
    return output
