"""Reads the `.keras` file that a trainer wrote."""

from __future__ import annotations

import keras


def load(path: str) -> keras.Model:
    """Loads the model, uncompiled; layers of our own are known, code in the file is refused.

    Args:
      path: A `.keras` file.
    """
    # Keras finds a layer that is not its own only where its module has been imported.
    from trainer_module.backbones import _frozen_graph  # noqa: F401

    return keras.models.load_model(path, compile=False)
