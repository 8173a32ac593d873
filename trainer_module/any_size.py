"""Runs a model on images of another size than the one for which it was built."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def accepting_any_size(model: keras.Model) -> Iterator[None]:
    """Lets a model, whose layers slide over the image, take images of other sizes inside the `with` block.

    Keras checks the size for which a model was built.

    Args:
      model: Models within it are included; `ModelOptions.accepts_any_size` says whether its layers can do it.
    """
    models = list(_models_within(model))
    specifications = [each.input_spec for each in models]
    for each in models:
        each.input_spec = None
    try:
        yield
    finally:
        for each, specification in zip(models, specifications, strict=True):
            each.input_spec = specification


def _models_within(model: keras.Model) -> Iterator[keras.Model]:
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _models_within(layer)
