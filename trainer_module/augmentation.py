"""Random layers that act on training pictures only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_module.options import AugmentationOptions

if TYPE_CHECKING:
    import keras


def augmented(model: keras.Model, options: AugmentationOptions, seed: int) -> keras.Model:
    """The model with random layers before it, to be fitted; both share their weights.

    The model itself stays free of them, and so does what is saved and exported: Keras's random layers change pictures
    whenever they are not told `training=False`, so that one forgotten argument would augment at inference.

    Args:
      model: From pixels to logits.
      options: The strength of each change.
      seed: Makes the sequence of random changes reproducible.

    Returns:
      The model itself where no augmentation is asked for.
    """
    import keras

    chosen = layers(options, seed)
    return keras.Sequential([keras.Input(model.input_shape[1:]), *chosen, model]) if chosen else model


def layers(options: AugmentationOptions, seed: int) -> list[keras.layers.Layer]:
    """The random layers that the options ask for.

    They take and return float32 [N, height, width, channels], range [0, 255]. What a shift or a turn uncovers is
    filled with the nearest pixel.

    Args:
      options: The strength of each; 0 or False leaves a layer out.
      seed: Makes the sequence of random changes reproducible.

    Returns:
      Keras layers in the order in which they are applied: geometry first, then colour.
    """
    from keras import layers as kl

    chosen: list[keras.layers.Layer] = []
    if options.horizontal_flip:
        chosen.append(kl.RandomFlip("horizontal", seed=seed, name="augment_flip"))
    if options.rotation:
        chosen.append(kl.RandomRotation(options.rotation, fill_mode="nearest", seed=seed, name="augment_rotation"))
    if options.zoom:
        chosen.append(kl.RandomZoom(options.zoom, fill_mode="nearest", seed=seed, name="augment_zoom"))
    if options.translation:
        shift = options.translation
        chosen.append(kl.RandomTranslation(shift, shift, fill_mode="nearest", seed=seed, name="augment_translation"))
    if options.contrast:
        chosen.append(kl.RandomContrast(options.contrast, seed=seed, name="augment_contrast"))
    if options.brightness:
        chosen.append(kl.RandomBrightness(options.brightness, seed=seed, name="augment_brightness"))
    return chosen
