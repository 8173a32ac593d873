"""Random augmentation of training images, and of their labels if those change too.

Every function takes a seed and has no state: the same seed gives the same augmentation in the model, in `tf.data` on
any number of threads, and on the contact sheet of `tfx-vision augment`. `images` are [N, h, w, c], range [0, 255], all
but N static; `options` is the strength of each augmentation; `seed`, int [2], determines all random numbers of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from trainer_module import image_quality
from trainer_module.model_input import Size
from trainer_module.options import AugmentationOptions

# Share of the images whose quality is reduced, independently by each of blur, noise and JPEG compression.
REDUCED_QUALITY = 0.5

# Lightness and two axes of colour (YIQ), as in `tf.image.rgb_to_yiq`: the rows are Y, I and Q.
_YIQ = np.array(
    [[0.299, 0.587, 0.114], [0.59590059, -0.27455667, -0.32134392], [0.21153661, -0.52273617, 0.31119955]], np.float32
)

# Ranges of the erased rectangle's share of the image, and of its height divided by its width.
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 3.3)

# Every random variable has its own stream, so that an additional one does not change the others.
_STREAMS = (
    *("horizontal_flip", "vertical_flip", "angle", "scale", "shift_y", "shift_x", "contrast", "brightness"),
    *("erased", "erased_area", "erased_aspect", "erased_top", "erased_left", "noise"),
    *("mix", "beta_a", "beta_a_power", "beta_b", "beta_b_power", "centre_y", "centre_x"),
    *("blurred", "blur", "noisy", "deviation", "normal", "compressed", "quality"),
    *("saturation", "hue"),
    *("crop_y", "crop_x"),
)

# Moves images or masks [N, h, w, c]; the interpolation is "BILINEAR" or "NEAREST".
_Move = Callable[[tf.Tensor, str], tf.Tensor]


# --- Placement --------------------------------------------------------------------------------------------------


def in_model(model: keras.Model, options: AugmentationOptions, seed: int) -> keras.Model:
    """Returns a model for training, with augmentation before the given model; both share their weights.

    The given model, which is saved and exported, contains no augmentation.

    Args:
      model: Network from pixels to logits.
      options: `mixup` and `cutmix` are ignored.
      seed: Seed of the sequence of random numbers.

    Returns:
      The given model if no augmentation is active.
    """
    if not options.active():
        return model
    return keras.Sequential([keras.Input(model.input_shape[1:]), RandomAugmentation(options, seed), model])


class RandomAugmentation(keras.layers.Layer):
    """`augment_images` as a layer, active only with `training=True`."""

    def __init__(self, options: AugmentationOptions, seed: int) -> None:
        """Args: the strength of each augmentation; seed of the sequence of random numbers."""
        super().__init__(name="augmentation", dtype="float32", trainable=False)
        self.supports_jit = False  # XLA has no projective transform of images
        self._options = options
        self._seeds = keras.random.SeedGenerator(seed)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """float32 [N, h, w, c] → the same, range [0, 255]."""
        return augment_images(images, self._options, tf.cast(self._seeds.next(), tf.int32)) if training else images


def in_dataset(
    data: tf.data.Dataset, augment: Callable[..., tuple[tf.Tensor, ...]], options: AugmentationOptions, seed: int
) -> tf.data.Dataset:
    """Augments the data batch by batch, on several threads.

    The seed of a batch depends only on the numbers of the batch and the epoch, not on the order of the threads.

    Args:
      data: (images, ...) batches.
      augment: (seed int64 [2], *batch) → the augmented batch.
      options: Whether an augmentation is active.
      seed: Seed of the sequence of random numbers.

    Returns:
      The given data if no augmentation is active.
    """
    if not options.active():
        return data

    @tf.autograph.experimental.do_not_convert
    def augment_batch(batch_seed: tf.Tensor, batch: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        return augment(batch_seed, *batch)

    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    batches = tf.data.Dataset.zip((seeds.batch(2, drop_remainder=True), data))
    augmented = batches.map(augment_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return augmented.prefetch(tf.data.AUTOTUNE)


# --- Images -----------------------------------------------------------------------------------------------------


def augment_images(images: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor) -> tf.Tensor:
    """Moves images, then changes their pixels, then erases a rectangle of some; returns float32 of the same shape."""
    moved = _moves(images, options, seed)(tf.cast(images, tf.float32), "BILINEAR")
    changed = _change_pixels(moved, options, seed)
    return _erase(changed, options.random_erasing, seed) if options.random_erasing else changed


def augment_images_and_masks(
    images: tf.Tensor, masks: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor, size: Size | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves images and masks in the same way, then changes the pixels of the images.

    Images are interpolated, masks take the id of the nearest pixel; pixels from outside the image take the value of the
    nearest pixel inside it.

    Args:
      images: [N, h, w, c], range [0, 255], all but N static.
      masks: uint8 [N, h, w].
      options: The strength of each augmentation.
      seed: int [2]; determines all random numbers.
      size: Height and width of the results, pixels; those of the images by default. Smaller results are parts of the
        moved images, at random positions inside them if they are large enough.

    Returns:
      float32 [N, *size, c], range [0, 255], and like `masks` uint8 [N, *size].
    """
    move = _moves(images, options, seed, size=size)
    moved = move(tf.cast(images, tf.float32), "BILINEAR")
    return _change_pixels(moved, options, seed), move(masks[..., tf.newaxis], "NEAREST")[..., 0]


def augment_images_and_boxes(
    images: tf.Tensor, labels: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves images and boxes in the same way, then changes the pixels of the images.

    Boxes are clipped to the image; one of which too little remains (`boxes.transforms.MIN_VISIBILITY`)
    becomes padding. After a rotation a box surrounds the rotated box, and is larger than its object.

    Args:
      images: [N, h, w, c], range [0, 255], all but N static.
      labels: float32 [N, max_objects, 6], see `box_labels`.
      options: The strength of each augmentation.
      seed: int [2]; determines all random numbers.

    Returns:
      float32 [N, h, w, c], range [0, 255], and float32 [N, max_objects, 6].
    """
    from trainer_module import geometry
    from trainer_module.boxes import transforms

    size = images.shape[1:3]
    matrices = _transforms(tf.shape(images)[0], size, options, seed)
    moved = _moves(images, options, seed, matrices)(tf.cast(images, tf.float32), "BILINEAR")
    scale = tf.constant([*size, *size], tf.float32)
    projected = transforms.project(labels[..., :4] * scale, matrices)
    visible = transforms.clip_visible(projected, size)
    moved_labels = tf.concat([visible.boxes / scale, labels[..., 4:]], axis=-1)
    return _change_pixels(moved, options, seed), geometry.keep_visible(moved_labels, visible.visible)


def _moves(
    images: tf.Tensor,
    options: AugmentationOptions,
    seed: tf.Tensor,
    matrices: tf.Tensor | None = None,
    size: Size | None = None,
) -> _Move:
    """Returns one random move per image: flips, then rotation and zoom about the centre, then a shift.

    Together they are one affine map, so an image is resampled once: three layers in sequence take three times as long,
    and each blurs the image again. Flips alone copy pixels, and so do shifts.

    Args:
      images: [N, h, w, c].
      options: The strength of each move.
      seed: int [2].
      matrices: The result of `_transforms`, if it is known.
      size: Height and width of the results; those of the images by default.
    """
    num, full_size = tf.shape(images)[0], tuple(images.shape[1:3])
    size = size or full_size
    if not options.rotation and not options.zoom and not options.translation and size == full_size:
        mirrored, upside_down = _flips(num, options, seed)

        def flip(batch: tf.Tensor, interpolation: str) -> tf.Tensor:
            for flipped, axis in ((mirrored, 2), (upside_down, 1)):
                if flipped is not None:
                    # Selects whole images, in half the time of a `tf.where` with a condition per pixel.
                    batch = tf.raw_ops.Select(condition=flipped, x=tf.reverse(batch, [axis]), y=batch)
            return batch

        return flip

    transforms = _transforms(num, full_size, options, seed, size) if matrices is None else matrices

    def resample(batch: tf.Tensor, interpolation: str) -> tf.Tensor:
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=batch,
            transforms=transforms,
            output_shape=size,
            fill_value=0.0,  # unused
            interpolation=interpolation,
            fill_mode="NEAREST",
        )
        return tf.ensure_shape(moved, [batch.shape[0], *size, batch.shape[3]])

    return resample


def _flips(num: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """Draws which images are mirrored, and which are turned upside down: bool [num] each; None for no images."""
    mirrored = _below(num, 0.5, seed, "horizontal_flip") if options.horizontal_flip else None
    upside_down = _below(num, 0.5, seed, "vertical_flip") if options.vertical_flip else None
    return mirrored, upside_down


def _transforms(
    num: tf.Tensor, full_size: Size, options: AugmentationOptions, seed: tf.Tensor, size: Size | None = None
) -> tf.Tensor:
    """Draws the moves as the arguments of `ImageProjectiveTransformV3`: float32 [num, 8]."""
    (height, width), size = full_size, size or full_size
    interpolates = bool(options.rotation or options.zoom)
    mirrored, upside_down = _flips(num, options, seed)

    def shift(side: int, stream: str) -> tf.Tensor:
        if not options.translation:
            return tf.zeros([num])
        if interpolates:
            return options.translation * side * _uniform([num], seed, stream, -1.0, 1.0)
        largest = max(1, round(options.translation * side))
        return tf.floor(_uniform([num], seed, stream, -largest, largest + 1))

    angle = 2 * math.pi * options.rotation * _uniform([num], seed, "angle", -1.0, 1.0)
    scale = 1.0 + options.zoom * _uniform([num], seed, "scale", -1.0, 1.0)
    sign_x = 1.0 if mirrored is None else tf.where(mirrored, -1.0, 1.0)
    sign_y = 1.0 if upside_down is None else tf.where(upside_down, -1.0, 1.0)

    def centre(side: int, part: int, stream: str) -> tf.Tensor:
        """Draws the centre of the part that is shown: inside the image, if this is large enough."""
        spare = tf.maximum(0.0, side - part / scale)
        offset = 0.0 if part == side else spare * _uniform([num], seed, stream, -0.5, 0.5)
        return (side - 1) / 2 + (offset if interpolates else tf.round(offset))

    # The operation maps a pixel q of the result to its source p = A (q - own centre - shift) + centre, where A is the
    # inverse of "flip, rotate, scale". Pixel centres have integer coordinates.
    a00, a01 = sign_x * tf.cos(angle) / scale, sign_x * tf.sin(angle) / scale
    a10, a11 = -sign_y * tf.sin(angle) / scale, sign_y * tf.cos(angle) / scale
    centre_y, centre_x = centre(height, size[0], "crop_y"), centre(width, size[1], "crop_x")
    from_y, from_x = (size[0] - 1) / 2 + shift(height, "shift_y"), (size[1] - 1) / 2 + shift(width, "shift_x")
    zeros = tf.zeros([num])
    return tf.stack(
        [
            *(a00, a01, centre_x - a00 * from_x - a01 * from_y),
            *(a10, a11, centre_y - a10 * from_x - a11 * from_y),
            *(zeros, zeros),
        ],
        axis=1,
    )


def _change_pixels(images: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor) -> tf.Tensor:
    """Changes colours, then quality: nothing moves."""
    return _reduce_quality(_change_colors(images, options, seed), options, seed)


def _change_colors(images: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor) -> tf.Tensor:
    """Changes the contrast about the mean of every channel, then the brightness, then the colours."""
    changes_colors = images.shape[3] > 1 and (options.saturation or options.hue)
    if not options.contrast and not options.brightness and not changes_colors:
        return images
    one_per_image = [tf.shape(images)[0], 1, 1, 1]
    if options.contrast:
        mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
        images = mean + (images - mean) * (
            1.0 + options.contrast * _uniform(one_per_image, seed, "contrast", -1.0, 1.0)
        )
    if options.brightness:
        images += 255.0 * options.brightness * _uniform(one_per_image, seed, "brightness", -1.0, 1.0)
    if changes_colors:
        images = tf.einsum("nhwc,ndc->nhwd", images, _color_matrices(tf.shape(images)[0], options, seed))
    return tf.clip_by_value(images, 0.0, 255.0)


def _color_matrices(num: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor) -> tf.Tensor:
    """Draws changes of saturation and hue, as matrices of RGB colours: float32 [num, 3, 3].

    Around the axis of grays, saturation is a scale and hue an angle, so that both together are one matrix. The layers
    of Keras and the functions of tf.image convert every pixel to HSV and back; those of tf.image take one factor for
    all images.
    """
    scale = 1.0 + options.saturation * _uniform([num], seed, "saturation", -1.0, 1.0)
    angle = 2 * math.pi * options.hue * _uniform([num], seed, "hue", -1.0, 1.0)
    ones, zeros = tf.ones([num]), tf.zeros([num])
    along, across = scale * tf.cos(angle), scale * tf.sin(angle)
    turns = tf.reshape(
        tf.stack([ones, zeros, zeros, zeros, along, -across, zeros, across, along], axis=1), [num, len(_YIQ), len(_YIQ)]
    )
    return np.linalg.inv(_YIQ) @ turns @ _YIQ


def _reduce_quality(images: tf.Tensor, options: AugmentationOptions, seed: tf.Tensor) -> tf.Tensor:
    """Blurs some images, adds noise to some and compresses some, in the order of a camera."""
    num = tf.shape(images)[0]

    def strength(affected: str, amount: str, low: float, high: float, otherwise: float) -> tf.Tensor:
        drawn = _uniform([num], seed, amount, low, high)
        return tf.where(_below(num, REDUCED_QUALITY, seed, affected), drawn, otherwise)

    if options.blur:
        images = image_quality.blur(images, strength("blurred", "blur", 0.0, options.blur, 0.0), options.blur)
    if options.noise:
        deviation = strength("noisy", "deviation", 0.0, 255.0 * options.noise, 0.0)
        own_seed = tf.random.fold_in(seed, _STREAMS.index("normal"))
        images = image_quality.add_noise(images, deviation, tf.random.stateless_normal(tf.shape(images), own_seed))
    if options.jpeg_quality:
        quality = strength("compressed", "quality", options.jpeg_quality, 101.0, 0.0)
        images = image_quality.compress(images, tf.cast(quality, tf.int32))
    return images


def _erase(images: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Fills a rectangle of some images with noise, uniform in [0, 255].

    Unlike here, Keras's RandomErasing draws the two sides instead of area and aspect ratio, and the probability
    too.

    Reference: Zhong et al. 2017, https://arxiv.org/abs/1708.04896, algorithm 1; the position is drawn among those where
    the rectangle is inside the image.
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


# --- Images with labels -----------------------------------------------------------------------------------------


def mix(
    images: tf.Tensor, targets: tuple[tf.Tensor, ...], options: AugmentationOptions, seed: tf.Tensor
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Mixes every image and its targets with the next of the batch (the last with the first).

    Args:
      images: float32 [N, h, w, c], in random order.
      targets: float32 [N, ...] each: labels as shares of the classes, sample weights.
      options: `mixup` and `cutmix`; if both are active, a batch uses either with probability 1/2.
      seed: int [2].

    Returns:
      The same shapes. A target is the mean of both images' targets, weighted by the shares of the images; with `cutmix`
      those are shares of pixels.

    Reference: Zhang et al. 2018, https://arxiv.org/abs/1710.09412, equation 2; Yun et al. 2019,
    https://arxiv.org/abs/1905.04899, section 3.1. Both papers draw one share per batch; here every image has its own.
    """
    num, (height, width) = tf.shape(images)[0], images.shape[1:3]
    partners = tf.roll(images, -1, axis=0)

    def blend() -> tuple[tf.Tensor, tf.Tensor]:
        share = _beta(num, options.mixup, seed)
        return _mean(share, images, partners), share

    def patch() -> tuple[tf.Tensor, tf.Tensor]:
        side = tf.sqrt(1.0 - _beta(num, options.cutmix, seed))
        centre_y, centre_x = _uniform([num], seed, "centre_y", 0, height), _uniform([num], seed, "centre_x", 0, width)
        half_height, half_width = side * height / 2, side * width / 2
        # The rectangle is clipped to the image; the label follows the number of replaced pixels.
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
        mixed, share = tf.cond(_below(1, 0.5, seed, "mix")[0], blend, patch)
    else:
        mixed, share = blend() if options.mixup else patch()
    return mixed, tuple(_mean(share, target, tf.roll(target, -1, axis=0)) for target in targets)


def _mean(share: tf.Tensor, own: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    share = tf.reshape(share, [-1] + [1] * (len(own.shape) - 1))
    return share * own + (1.0 - share) * other


# --- Random numbers ---------------------------------------------------------------------------------------------


def _uniform(shape: object, seed: tf.Tensor, stream: str, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """Draws float32 values, range [low, high)."""
    own_seed = tf.random.fold_in(seed, _STREAMS.index(stream))
    return tf.random.stateless_uniform(shape, own_seed, float(low), float(high))


def _below(num: tf.Tensor | int, probability: float, seed: tf.Tensor, stream: str) -> tf.Tensor:
    """Draws bool [num], each true with the probability."""
    return _uniform([num], seed, stream) < probability


def _beta(num: tf.Tensor, alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws from Beta(alpha, alpha), float32 [num].

    Beta is X / (X + Y) of two gamma variables. For a small alpha both underflow float32, but their logarithms do not.
    Gamma(alpha) is Gamma(alpha + 1) U^(1 / alpha).

    Reference: Marsaglia & Tsang 2000, https://doi.org/10.1145/358407.358414 (the remark on alpha below 1).
    """

    def log_gamma_variable(stream: str) -> tf.Tensor:
        own_seed = tf.random.fold_in(seed, _STREAMS.index(stream))
        gamma = tf.random.stateless_gamma([num], own_seed, alpha + 1.0)
        return tf.math.log(gamma) + tf.math.log(1.0 - _uniform([num], seed, f"{stream}_power")) / alpha

    return tf.sigmoid(log_gamma_variable("beta_a") - log_gamma_variable("beta_b"))


def _inside(top: tf.Tensor, bottom: tf.Tensor, left: tf.Tensor, right: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns the pixels of rectangles, each [N] → bool [N, height, width, 1]; bottom and right are exclusive."""
    y, x = tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32)
    rows = (y >= top[:, tf.newaxis]) & (y < bottom[:, tf.newaxis])
    columns = (x >= left[:, tf.newaxis]) & (x < right[:, tf.newaxis])
    return rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]
