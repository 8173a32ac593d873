"""Random layers that act on training pictures only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trainer_module.options import AugmentationOptions

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

PairChange = Callable[["tf.Tensor", "tf.Tensor"], tuple["tf.Tensor", "tf.Tensor"]]


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


def of_pictures_with_masks(options: AugmentationOptions, seed: int) -> PairChange | None:
    """A function that changes pictures and masks alike, for `tf.data`.

    Both get the same random geometry, pictures bilinear and masks by nearest neighbour; what uncovered places are
    filled with is the nearest pixel of either. Colours change in the pictures only.

    Args:
      options: The strength of each change.
      seed: Makes the sequence of random changes reproducible.

    Returns:
      (images [N, h, w, c] range [0, 255], masks uint8 [N, h, w]) → (float32 [N, h, w, c], uint8 [N, h, w]); None where
      no augmentation is asked for.
    """
    import tensorflow as tf

    chosen = layers(options, seed)
    if not chosen:
        return None

    def change(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The names are Keras's: its random layers know what to do with each.
        pair = {
            "images": tf.cast(images, tf.float32),
            "segmentation_masks": tf.cast(masks, tf.float32)[..., tf.newaxis],
        }
        for layer in chosen:
            pair = layer(pair, training=True)
        changed = tf.ensure_shape(pair["images"], images.shape)
        return changed, tf.ensure_shape(tf.cast(pair["segmentation_masks"][..., 0], tf.uint8), masks.shape)

    return change


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
