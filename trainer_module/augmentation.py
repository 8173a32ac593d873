"""Random changes of training pictures, and of their labels where those change too.

Every function here takes its seed and keeps no state: the same seed gives the same changes in the model, in `tf.data`
on any number of threads, and on the sheet that `tfx-vision augment` draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from trainer_module.options import AugmentationOptions

# Of the erased rectangle: its share of the picture, and its height through its width.
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 3.3)

# Every draw has numbers of its own, so that one more change does not alter what the others do.
_STREAMS = (
    *("horizontal_flip", "vertical_flip", "angle", "scale", "shift_y", "shift_x", "contrast", "brightness"),
    *("erased", "erased_area", "erased_aspect", "erased_top", "erased_left", "noise"),
    *("mix", "beta_a", "beta_a_power", "beta_b", "beta_b_power", "centre_y", "centre_x"),
)

# Moves pictures, or masks, [N, h, w, c]; the interpolation is "BILINEAR" or "NEAREST".
_Move = Callable[[tf.Tensor, str], tf.Tensor]


# --- Where the changes are made ---------------------------------------------------------------------------------


def in_model(model: keras.Model, options: AugmentationOptions, seed: int) -> keras.Model:
    """The model with the changes before it, to be fitted; both share their weights.

    The model itself stays free of them, and so does what is saved and exported.

    Args:
      model: From pixels to logits.
      options: The strength of each change; `mixup` and `cutmix` are not looked at.
      seed: Makes the sequence of random changes reproducible.

    Returns:
      The model itself where no augmentation is asked for.
    """
    if not options.active():
        return model
    return keras.Sequential([keras.Input(model.input_shape[1:]), RandomChanges(options, seed), model])


class RandomChanges(keras.layers.Layer):
    """`change_pictures` as a layer, active only when it is told `training=True`."""

    def __init__(self, options: AugmentationOptions, seed: int) -> None:
        """Takes the strength of each change, and the seed of their sequence."""
        super().__init__(name="augmentation", dtype="float32", trainable=False)
        self.supports_jit = False  # XLA has no projective transform of pictures
        self._options = options
        self._seeds = keras.random.SeedGenerator(seed)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """float32 [N, h, w, c] → the same, range [0, 255]."""
        return change_pictures(images, self._options, tf.cast(self._seeds.next(), tf.int32)) if training else images


def in_dataset(
    data: tf.data.Dataset, change: Callable[..., tuple[tf.Tensor, ...]], options: AugmentationOptions, seed: int
) -> tf.data.Dataset:
    """The data with the changes made batch by batch, on several threads.

    The seed of a batch depends on its number and the epoch's alone, so that threads may overtake each other.

    Args:
      data: (images, ...) batches.
      change: (seed int64 [2], *batch) → the changed batch.
      options: The strength of each change.
      seed: Makes the sequence of random changes reproducible.

    Returns:
      The data themselves where no augmentation is asked for.
    """
    if not options.active():
        return data
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    changed = tf.data.Dataset.zip((seeds.batch(2, drop_remainder=True), data)).map(
        lambda batch_seed, batch: change(batch_seed, *batch), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return changed.prefetch(tf.data.AUTOTUNE)


# --- Pictures ---------------------------------------------------------------------------------------------------


def change_pictures(images: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor) -> tf.Tensor:
    """Moves pictures, then changes their colours, then erases a part of some.

    Args:
      images: [N, h, w, c], range [0, 255], all but N static.
      options: The strength of each change.
      seed: int [2]; decides everything.

    Returns:
      float32 [N, h, w, c], range [0, 255].
    """
    moved = _moves(images, options, seed)(tf.cast(images, tf.float32), "BILINEAR")
    colored = _with_other_colors(moved, options, seed)
    return _erased(colored, options.random_erasing, seed) if options.random_erasing else colored


def change_pictures_and_masks(
    images: tf.Tensor, masks: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves pictures and masks alike, then changes the pictures' colours.

    Pictures are interpolated, masks take the id of the nearest pixel; what uncovered places are filled with is the
    nearest pixel of either.

    Args:
      images: [N, h, w, c], range [0, 255], all but N static.
      masks: uint8 [N, h, w].
      options: The strength of each change.
      seed: int [2]; decides everything.

    Returns:
      float32 [N, h, w, c], range [0, 255], and uint8 [N, h, w].
    """
    move = _moves(images, options, seed)
    moved = move(tf.cast(images, tf.float32), "BILINEAR")
    return _with_other_colors(moved, options, seed), move(masks[..., tf.newaxis], "NEAREST")[..., 0]


def _moves(images: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor) -> _Move:
    """One random move for every picture: flips, then a turn and a change of scale about the centre, then a shift.

    All of them together are one affine map, so that a picture is resampled once: three layers, one after another, take
    three times as long, and each blurs what the one before has left. Flips alone copy pixels, and so do shifts.
    """
    num, (height, width) = tf.shape(images)[0], images.shape[1:3]
    turns = bool(options.rotation or options.zoom)
    mirrored = _below(num, 0.5, seed, "horizontal_flip") if options.horizontal_flip else None
    upside_down = _below(num, 0.5, seed, "vertical_flip") if options.vertical_flip else None

    if not turns and not options.translation:

        def flip(pictures: tf.Tensor, interpolation: str) -> tf.Tensor:
            for chosen, axis in ((mirrored, 2), (upside_down, 1)):
                if chosen is not None:
                    # Chooses whole pictures, in half the time of a `tf.where` that is told so pixel by pixel.
                    pictures = tf.raw_ops.Select(condition=chosen, x=tf.reverse(pictures, [axis]), y=pictures)
            return pictures

        return flip

    def shift(side: int, stream: str) -> tf.Tensor:
        if not options.translation:
            return tf.zeros([num])
        if turns:
            return options.translation * side * _uniform([num], seed, stream, -1.0, 1.0)
        most = max(1, round(options.translation * side))
        return tf.floor(_uniform([num], seed, stream, -most, most + 1))

    angle = 2 * math.pi * options.rotation * _uniform([num], seed, "angle", -1.0, 1.0)
    scale = 1.0 + options.zoom * _uniform([num], seed, "scale", -1.0, 1.0)
    sign_x = 1.0 if mirrored is None else tf.where(mirrored, -1.0, 1.0)
    sign_y = 1.0 if upside_down is None else tf.where(upside_down, -1.0, 1.0)
    # The operation asks where a pixel of the result comes from: p = A (q - centre - shift) + centre, A being the
    # inverse of "flip, turn, scale". Pixels have their centres at whole numbers.
    a00, a01 = sign_x * tf.cos(angle) / scale, sign_x * tf.sin(angle) / scale
    a10, a11 = -sign_y * tf.sin(angle) / scale, sign_y * tf.cos(angle) / scale
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    from_y, from_x = centre_y + shift(height, "shift_y"), centre_x + shift(width, "shift_x")
    none = tf.zeros([num])
    maps = tf.stack(
        [
            *(a00, a01, centre_x - a00 * from_x - a01 * from_y),
            *(a10, a11, centre_y - a10 * from_x - a11 * from_y),
            *(none, none),
        ],
        axis=1,
    )

    def resample(pictures: tf.Tensor, interpolation: str) -> tf.Tensor:
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=pictures,
            transforms=maps,
            output_shape=[height, width],
            fill_value=0.0,  # unused
            interpolation=interpolation,
            fill_mode="NEAREST",
        )
        return tf.ensure_shape(moved, pictures.shape)

    return resample


def _with_other_colors(images: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor) -> tf.Tensor:
    """Contrast about the mean of every channel, then brightness; both alike for all channels of a picture."""
    if not options.contrast and not options.brightness:
        return images
    one_each = [tf.shape(images)[0], 1, 1, 1]
    if options.contrast:
        mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
        images = mean + (images - mean) * (1.0 + options.contrast * _uniform(one_each, seed, "contrast", -1.0, 1.0))
    if options.brightness:
        images += 255.0 * options.brightness * _uniform(one_each, seed, "brightness", -1.0, 1.0)
    return tf.clip_by_value(images, 0.0, 255.0)


def _erased(images: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Fills a rectangle of some pictures with noise, uniform in [0, 255].

    Keras's RandomErasing draws both sides by themselves instead of area and aspect, and the probability too.

    Reference: Zhong et al. 2017, https://arxiv.org/abs/1708.04896, algorithm 1; the place is drawn among those that
    the rectangle fits into.
    """
    num, (height, width) = tf.shape(images)[0], images.shape[1:3]
    area = height * width * _uniform([num], seed, "erased_area", *ERASED_AREA)
    aspect = _uniform([num], seed, "erased_aspect", *ERASED_ASPECT)
    rows = tf.clip_by_value(tf.round(tf.sqrt(area * aspect)), 1.0, height)
    columns = tf.clip_by_value(tf.round(tf.sqrt(area / aspect)), 1.0, width)
    rows = tf.where(_below(num, probability, seed, "erased"), rows, 0.0)
    top = tf.floor(_uniform([num], seed, "erased_top") * (height - rows + 1.0))
    left = tf.floor(_uniform([num], seed, "erased_left") * (width - columns + 1.0))
    inside = _inside(top, top + rows, left, left + columns, height, width)
    return tf.where(inside, _uniform(tf.shape(images), seed, "noise", 0.0, 255.0), images)


# --- Pictures with labels ---------------------------------------------------------------------------------------


def mix(
    images: tf.Tensor, targets: tuple[tf.Tensor, ...], options: AugmentationOptions, seed: tf.Tensor
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Mixes every picture with the next of its batch (the last with the first), and what is said of both alike.

    Args:
      images: float32 [N, h, w, c], in random order.
      targets: float32 [N, ...] each: labels as shares of the classes, weights.
      options: `mixup` and `cutmix`; where both are on, the batch takes either with probability 1/2.
      seed: int [2]; decides everything.

    Returns:
      The same shapes. A target is the mean of both pictures' by their shares: with `cutmix` those of the pixels.

    Reference: Zhang et al. 2018, https://arxiv.org/abs/1710.09412, equation 2; Yun et al. 2019,
    https://arxiv.org/abs/1905.04899, section 3.1. Both papers draw one share for a batch, here every picture has one.
    """
    num, (height, width) = tf.shape(images)[0], images.shape[1:3]
    partners = tf.roll(images, -1, axis=0)

    def blended() -> tuple[tf.Tensor, tf.Tensor]:
        share = _beta(num, options.mixup, seed)
        return _mean(share, images, partners), share

    def patched() -> tuple[tf.Tensor, tf.Tensor]:
        side = tf.sqrt(1.0 - _beta(num, options.cutmix, seed))
        centre_y, centre_x = _uniform([num], seed, "centre_y", 0, height), _uniform([num], seed, "centre_x", 0, width)
        half_height, half_width = side * height / 2, side * width / 2
        # What lies outside of the picture is cut off; the label follows the pixels that have been replaced.
        inside = _inside(
            tf.round(centre_y - half_height),
            tf.round(centre_y + half_height),
            tf.round(centre_x - half_width),
            tf.round(centre_x + half_width),
            *(height, width),
        )
        share = 1.0 - tf.reduce_mean(tf.cast(inside, tf.float32), axis=[1, 2, 3])
        return tf.where(inside, partners, images), share

    if options.mixup and options.cutmix:
        mixed, share = tf.cond(_below(1, 0.5, seed, "mix")[0], blended, patched)
    else:
        mixed, share = blended() if options.mixup else patched()
    return mixed, tuple(_mean(share, target, tf.roll(target, -1, axis=0)) for target in targets)


def _mean(share: tf.Tensor, own: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    share = tf.reshape(share, [-1] + [1] * (len(own.shape) - 1))
    return share * own + (1.0 - share) * other


# --- Random numbers ---------------------------------------------------------------------------------------------


def _uniform(shape: object, seed: tf.Tensor, stream: str, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """float32, range [low, high)."""
    own_seed = tf.random.fold_in(seed, _STREAMS.index(stream))
    return tf.random.stateless_uniform(shape, own_seed, float(low), float(high))


def _below(num: tf.Tensor | int, probability: float, seed: tf.Tensor, stream: str) -> tf.Tensor:
    """Draws bool [num], each true with the probability."""
    return _uniform([num], seed, stream) < probability


def _beta(num: tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Beta(alpha, alpha), float32 [num].

    It is X / (X + Y) of two gamma variables, which for a small alpha are both too small for float32: their logarithms
    are not. Gamma(alpha) is Gamma(alpha + 1) U^(1 / alpha).

    Reference: Marsaglia & Tsang 2000, https://doi.org/10.1145/358407.358414 (the remark on alpha below 1).
    """

    def log_gamma_variable(stream: str) -> tf.Tensor:
        own_seed = tf.random.fold_in(seed, _STREAMS.index(stream))
        whole = tf.random.stateless_gamma([num], own_seed, alpha + 1.0)
        return tf.math.log(whole) + tf.math.log(1.0 - _uniform([num], seed, f"{stream}_power")) / alpha

    return tf.sigmoid(log_gamma_variable("beta_a") - log_gamma_variable("beta_b"))


def _inside(top: tf.Tensor, bottom: tf.Tensor, left: tf.Tensor, right: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Where a rectangle lies, each [N] → bool [N, height, width, 1]; bottom and right are not in it."""
    y, x = tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32)
    rows = (y >= top[:, tf.newaxis]) & (y < bottom[:, tf.newaxis])
    columns = (x >= left[:, tf.newaxis]) & (x < right[:, tf.newaxis])
    return rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]
