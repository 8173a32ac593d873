"""Reads the `.keras` file that Trainer writes."""

from __future__ import annotations

import keras


def load(path: str) -> keras.Model:
    """Loads the model, uncompiled; accepts the project's own layers, rejects code in the file.

    Args:
      path: A `.keras` file.
    """
    # Keras knows a custom layer only after its module has been imported.
    from trainer_module import box_anchors, box_grid  # noqa: F401
    from trainer_module.backbones import _frozen_graph  # noqa: F401

    return keras.models.load_model(path, compile=False)
