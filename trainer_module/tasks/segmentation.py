"""Semantic segmentation: one class per pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainer_module import features, mask_drawing, mask_labels
from trainer_module.evaluation import pixels
from trainer_module.model_input import Size
from trainer_module.section import TaskOptions
from trainer_module.tasks._spec import (
    Agreement,
    Comparison,
    Condition,
    Drawing,
    Endpoint,
    Explanation,
    Export,
    Instances,
    Labeling,
    Monitoring,
    Objective,
    PredictionOutcomes,
    RawLabel,
    Subject,
    Target,
    TaskSpec,
)

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from trainer_module.models import FeatureMaps
    from trainer_module.monitored import MonitoredPredictions
    from trainer_module.options import TrainerOptions, TransformOptions


class Options(TaskOptions):
    """`[task]` with `name = "segmentation"`."""

    name: Literal["segmentation"] = "segmentation"
    loss: Literal["cross_entropy", "dice", "cross_entropy_dice", "focal"] = Field(
        default="cross_entropy", description="`cross_entropy_dice` is the sum of both."
    )
    class_weights: Literal["none", "balanced", "median_frequency", "log"] = Field(
        default="none",
        description="`balanced` weights a class by the inverse of its share of all pixels, `median_frequency` by that "
        "of its share in the images that contain it; `log` by that of the logarithm of 1.02 plus its share, the "
        "mildest of the three.",
    )
    focal_gamma: float = Field(
        default=2.0,
        ge=0.0,
        le=10.0,
        description="With `focal`: how strongly well classified pixels are down-weighted; 0 is not at all.",
    )


# === Labels ===


def _example_label(class_ids: Sequence[int], classes: Sequence[str], image_size: int) -> dict[str, list[Any]]:
    """Returns a mask with a vertical stripe per class."""
    import io

    import numpy as np
    from PIL import Image

    stripes = np.array(class_ids, np.uint8)[np.arange(image_size) * len(class_ids) // image_size]
    buffer = io.BytesIO()
    Image.fromarray(np.tile(stripes, [image_size, 1])).save(buffer, "PNG")
    names = [classes[class_id] for class_id in dict.fromkeys(class_ids)]
    return {features.MASK_ENCODED: [buffer.getvalue()], features.MASK_CLASSES: names}


def _transform_label(inputs: Mapping[str, tf.Tensor], classes: Sequence[str], options: TransformOptions) -> tf.Tensor:
    """Resizes the mask of a raw example: uint8 ids [*image_size] in one string, string [N]; see `mask_labels`.

    Raises:
      ValueError: If there is no id for padding.
    """
    import tensorflow as tf

    from trainer_module import preprocessing

    if options.resize == "pad" and len(classes) > mask_labels.PADDING_ID:
        raise ValueError(
            f'transform.resize = "pad" supports at most {mask_labels.PADDING_ID} classes of masks, and there are '
            f'{len(classes)}: set transform.resize = "crop" or "stretch"'
        )
    encoded = tf.reshape(inputs[features.MASK_ENCODED], [-1])
    return preprocessing.pack(preprocessing.decode_masks(encoded, options.geometry, mask_labels.PADDING_ID))


def _read_label(transformed: dict[str, tf.Tensor], options: TransformOptions) -> tf.Tensor:
    """Reads the masks of a batch, uint8 [n, *image_size]."""
    from trainer_module import preprocessing

    return preprocessing.unpack(transformed[features.LABEL], options.image_size, channels=1)[..., 0]


# === Network ===


def _head(maps: FeatureMaps, num_classes: int, options: TrainerOptions) -> keras.KerasTensor:
    """Adds a 1x1 convolution on the decoded map, enlarged bilinearly if the map is smaller than the image.

    Args:
      maps: The model's feature maps; `decoded` is read.
      num_classes: Number of classes.
      options: `transform.image_size` is read.

    Returns:
      Logits, float32 [N, *image_size, num_classes].

    Reference: Long et al. 2015, https://arxiv.org/abs/1411.4038, section 3 (class scores per position, upsampled).
    """
    from keras import layers

    size = options.transform.image_size
    if tuple(maps.decoded.shape[1:3]) == size:
        return layers.Conv2D(num_classes, 1, dtype="float32", name=features.LOGITS_LAYER)(maps.decoded)
    x = layers.Conv2D(num_classes, 1, dtype="float32", name="class_scores")(maps.decoded)
    return layers.Resizing(*size, dtype="float32", name=features.LOGITS_LAYER)(x)


def _restore_outputs(logits: tf.Tensor, is_mirrored: bool, size: Size) -> tf.Tensor:
    """Mirrors logits back and resizes them: float32 [N, *size of the view, C] → [N, *size, C]."""
    import tensorflow as tf

    logits = tf.reverse(logits, [2]) if is_mirrored else logits
    return logits if tuple(logits.shape[1:3]) == size else tf.image.resize(logits, size)


# === Training ===


def _augment(options: TrainerOptions) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Moves images and masks in the same way: (seed int [2], images, masks) → the same, augmented."""
    from trainer_module import augmentation

    size = options.training_size
    return lambda seed, images, masks: augmentation.augment_images_and_masks(
        images, masks, options.augmentation, seed, size
    )


def _loss(options: TrainerOptions, train_data: tf.data.Dataset | None = None) -> keras.losses.Loss:
    """Returns the configured loss.

    Args:
      options: `task`, `classes` and `ignore_id` are read.
      train_data: (images, uint8 [n, h, w]) batches, from which class weights are computed.
    """
    from trainer_module import pixel_losses

    own = Options.from_options(options)
    weights = pixel_losses.class_weights(own.class_weights, train_data, len(options.classes), options.ignore_id)
    return pixel_losses.PixelLoss(own.loss, weights.tolist(), ignore_id=options.ignore_id, focal_gamma=own.focal_gamma)


def _training_metrics(options: TrainerOptions) -> list[keras.metrics.Metric]:
    from trainer_module.pixel_metrics import PixelMetrics

    return [PixelMetrics(options.classes, options.ignore_id)]


# === Export ===


def masks_of(logits: tf.Tensor) -> tf.Tensor:
    """Returns the most probable class of every pixel: float32 [N, h, w, C] → uint8 [N, h, w]."""
    import tensorflow as tf

    return tf.cast(tf.argmax(logits, axis=-1), tf.uint8)


def _decode(logits: tf.Tensor, options: TrainerOptions, image_sizes: tf.Tensor | None = None) -> tf.Tensor:
    """Returns masks, uint8 [N, h, w]: of the model input, or of images, which must then have the same size."""
    import tensorflow as tf

    from trainer_module.geometry import restore_mask

    if image_sizes is None:
        return masks_of(logits)
    return tf.map_fn(
        lambda one: restore_mask(one[0], one[1], options.transform.geometry),
        (tf.cast(logits, tf.float32), image_sizes),
        fn_output_signature=tf.TensorSpec([None, None], tf.uint8),
    )


def _signatures(
    model: keras.Model, options: TrainerOptions, tft_layer: Any, raw_feature_spec: dict[str, Any]
) -> dict[str, Endpoint]:
    """Builds the signatures of the SavedModel.

    Returns:
      Those of `_signatures.common_endpoints`, and with N the batch size and C the number of classes:
        serving_default: image_bytes string [N] → mask_png_bytes string [N] (PNG of class ids, of the size of the
          upright image), class_pixels int64 [N, C]. TFMA reads an output by its name only if there are two or more.
        transform_features: the label is a PNG of class ids and `ignore_id`, of the same size.
        explain: for the class, except the first, that covers most of the mask.
        embed: the mean of the encoded map.
    """
    import keras
    import tensorflow as tf

    from trainer_module.geometry import restore_mask
    from trainer_module.pixel_metrics import count_pixels
    from trainer_module.tasks import _signatures

    num_classes = len(options.classes)

    def encode(one: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        logits, size = one
        mask = restore_mask(logits, size, options.transform.geometry)
        return tf.io.encode_png(mask[..., tf.newaxis]), count_pixels(mask[tf.newaxis], num_classes)[0]

    def predict(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = _signatures.read_images(image_bytes, options)
        logits = tf.cast(model(images.pixels, training=False), tf.float32)
        specs = tf.TensorSpec([], tf.string), tf.TensorSpec([num_classes], tf.int64)
        # Images differ in size, so their masks do not fit into one tensor.
        pngs, counts = tf.map_fn(encode, (logits, images.sizes), fn_output_signature=specs)
        return {"mask_png_bytes": pngs, "class_pixels": counts}

    def label(raw: dict[str, tf.Tensor], transformed: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.reshape(raw[features.MASK_ENCODED], [-1])

    embedding = keras.Model(model.inputs, model.get_layer(features.FEATURES_LAYER).output, name="embed")
    return _signatures.common_endpoints(
        model, options, tft_layer, raw_feature_spec, predict=predict, embedding=embedding, label=label
    )


def _compare(
    response: Mapping[str, np.ndarray], expected: Sequence[np.ndarray], options: TrainerOptions, tolerance: float
) -> Agreement:
    """Compares masks.

    The tolerance is the largest allowed share of differing pixels: where two classes are equally probable, rounding
    decides.
    """
    import numpy as np
    import tensorflow as tf

    from trainer_module.pixel_metrics import count_pixels

    masks = [tf.io.decode_png(encoded).numpy()[..., 0] for encoded in response["mask_png_bytes"]]
    pairs = list(zip(masks, expected, strict=True))
    for mask, own in pairs:
        if mask.shape != own.shape:
            return Agreement(False, f"a mask of shape {mask.shape}, expected {own.shape}")
    num_pixels = sum(mask.size for mask in masks)
    differing = sum(int((mask != own).sum()) for mask, own in pairs) / num_pixels
    if differing > tolerance:
        return Agreement(False, f"{differing:.2g} of the pixels differ, allowed {tolerance:g}", differing)
    for mask, counts in zip(masks, response["class_pixels"], strict=True):
        if not np.array_equal(counts, count_pixels(tf.constant(mask[np.newaxis]), len(options.classes))[0]):
            return Agreement(False, "class_pixels do not belong to the masks")
    return Agreement(True, f"{differing:.2g} of the pixels differ", differing)


# === Explanation ===

# Smallest IoU of the predicted region and that of the ground truth at which a prediction counts as correct.
_CORRECT_IOU = 0.5


def _target(logits: tf.Tensor, subject: Subject, size: Size) -> Target:
    """Explains a class in a region.

    Without class ids it is the class with the most pixels, except the first one, the background, wherever there is
    another; of several equally large classes the first. Without regions it is explained where it is predicted.

    Args:
      logits: float32 [N, h, w, num_classes].
      subject: Class ids and regions, or None.
      size: Height and width, which the logits have too.

    Reference: Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434, section 3 (sum of the logits of a region).
    """
    import tensorflow as tf

    from trainer_module.pixel_metrics import count_pixels

    predicted, (class_ids, regions, _) = tf.argmax(logits, axis=-1), subject
    if class_ids is None:
        foreground = count_pixels(predicted, logits.shape[-1])[:, 1:]
        background = tf.constant(0, tf.int64)
        class_ids = tf.where(tf.reduce_any(foreground > 0, axis=-1), 1 + tf.argmax(foreground, axis=-1), background)
    class_ids = tf.cast(class_ids, tf.int64)
    if regions is None:
        regions = tf.equal(predicted, class_ids[:, tf.newaxis, tf.newaxis])
    class_logits = tf.gather(logits, class_ids, axis=-1, batch_dims=1)
    return Target(Subject(class_ids, regions), tf.reduce_sum(tf.where(regions, class_logits, 0.0), axis=[1, 2]))


def _score(logits: tf.Tensor, subject: Subject) -> tf.Tensor:
    """Returns the mean probability of the class over its region, float32 [N]; 0 if the region is empty."""
    import tensorflow as tf

    probabilities = tf.gather(tf.nn.softmax(logits), subject.class_ids, axis=-1, batch_dims=1)
    inside = tf.cast(subject.regions, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(probabilities * inside, axis=[1, 2]), tf.reduce_sum(inside, axis=[1, 2]))


def _true_instances(masks: np.ndarray, options: TrainerOptions) -> Instances:
    """Lists every class of every mask, except the ignored id, in its region."""
    import numpy as np

    pairs = [
        (index, class_id)
        for index, mask in enumerate(masks)
        for class_id in np.unique(mask)
        if class_id != options.ignore_id and class_id < len(options.classes)
    ]
    indices, class_ids = np.array(pairs, np.int64).reshape(-1, 2).T
    return Instances(indices, Subject(class_ids, _pixels_of(masks[indices], class_ids)))


def _true_regions(masks: np.ndarray, subject: Subject) -> np.ndarray:
    import numpy as np

    return _pixels_of(masks, np.asarray(subject.class_ids))


def _pixels_of(masks: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    regions: np.ndarray = masks == class_ids[:, None, None]
    return regions


def _outcomes(logits: tf.Tensor, subject: Subject, masks: np.ndarray, options: TrainerOptions) -> PredictionOutcomes:
    """Compares the predicted region of every class with that of the ground truth; ignored pixels do not count."""
    import numpy as np
    import tensorflow as tf

    best = tf.math.top_k(tf.nn.softmax(logits), 2).values.numpy()
    ids, explained = np.asarray(subject.class_ids), np.asarray(subject.regions)
    sizes = explained.sum(axis=(1, 2))
    margins = np.where(explained, best[..., 0] - best[..., 1], 0.0).sum(axis=(1, 2)) / np.maximum(sizes, 1)
    counted = mask_labels.counted(masks, options.ignore_id, len(options.classes))
    predicted, true = _pixels_of(masks_of(logits).numpy(), ids) & counted, _pixels_of(masks, ids)
    iou = (predicted & true).sum(axis=(1, 2)) / np.maximum((predicted | true).sum(axis=(1, 2)), 1)
    return PredictionOutcomes(
        predicted_ids=ids,
        listed_ids=ids,
        true_ids=None,
        confidence=_score(logits, subject).numpy(),
        margin=margins,
        correct=iou >= _CORRECT_IOU,
        exists=sizes > 0,
    )


# === Monitoring ===


def _monitored(outputs: Mapping[str, np.ndarray], num_classes: int) -> MonitoredPredictions:
    """The scores are shares of the pixels, the predicted class is the largest; the response contains no confidence."""
    import numpy as np

    from trainer_module.monitored import MonitoredPredictions

    counts = outputs["class_pixels"].astype(np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return MonitoredPredictions(shares.astype(np.float32), counts.argmax(axis=1), None)


def _ground_truth(raw: Mapping[str, Sequence[Any]]) -> str:
    import base64

    return base64.b64encode(raw[features.MASK_ENCODED][0]).decode()


def _mask_accuracy(
    outputs: Mapping[str, np.ndarray], index: int, label: Any, classes: Sequence[str], ignore_id: int | None
) -> float:
    """Computes the pixel accuracy of a mask; the label is a PNG file of class ids in base64."""
    try:
        mask = mask_labels.decode(_from_feedback(label)[features.MASK_ENCODED][0])
    except (ValueError, OSError):
        raise ValueError(_NOT_A_MASK) from None
    predicted = mask_labels.decode(outputs["mask_png_bytes"][index])
    if mask.shape != predicted.shape:
        raise ValueError(f"the mask has the shape {list(mask.shape)}, the image {list(predicted.shape)}")
    return mask_drawing.pixel_accuracy(mask, predicted, ignore_id)


# === Labelling ===

_NOT_A_MASK = "it is not a PNG file of class ids in base64"


def _uncertainty(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns 1 minus the mean probability of the explained class over its region, float64 [N].

    It is the class, except the first, that covers most of the mask; the response has no probabilities of pixels.
    """
    import numpy as np

    return np.asarray(1.0 - np.clip(np.asarray(outputs["score"], np.float64), 0.0, 1.0))


def _proposal(outputs: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[RawLabel]:
    return [{features.MASK_ENCODED: [png]} for png in outputs["mask_png_bytes"]]


def _agreement(label: RawLabel, other: RawLabel) -> float:
    """Returns the share of equal pixels; 0 if the masks differ in size."""
    import numpy as np

    masks = [mask_labels.decode(entry[features.MASK_ENCODED][0]) for entry in (label, other)]
    return float(np.mean(masks[0] == masks[1])) if masks[0].shape == masks[1].shape else 0.0


def _from_feedback(value: Any) -> RawLabel:
    """Reads a PNG file of class ids in base64."""
    import base64

    try:
        png = base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        png = b""
    if not png.startswith(b"\x89PNG"):
        raise ValueError(_NOT_A_MASK)
    return {features.MASK_ENCODED: [png]}


TASK = TaskSpec(
    name="segmentation",
    label_noun="a mask per image",
    options=Options,
    label_features={features.MASK_ENCODED: "string"},
    class_features=(features.MASK_CLASSES,),
    single_valued_features=(features.MASK_ENCODED,),
    example_label=_example_label,
    transform_label=_transform_label,
    read_label=_read_label,
    geometry_moves_labels=True,
    unsupported_augmentation=("random_erasing", "mixup", "cutmix"),
    augment=_augment,
    head=_head,
    restore_outputs=_restore_outputs,
    loss=_loss,
    training_metrics=_training_metrics,
    objectives=(
        Objective("val_loss", "min"),
        Objective("val_mean_iou", "max"),
        Objective("val_dice", "max"),
        Objective("val_pixel_accuracy", "max"),
    ),
    loss_options=("focal_gamma",),
    option_conditions={"focal_gamma": Condition('task.loss = "focal"', lambda own: own.loss == "focal")},
    evaluation=pixels.EVALUATION,
    export=Export(
        required=(features.SERVING_DEFAULT, features.EXAMPLES, features.EXPLAIN, features.EMBED),
        signatures=_signatures,
        compare=_compare,
        command="segment IMAGE --output-dir DIR",
    ),
    explanation=Explanation(
        target=_target,
        score=_score,
        true_instances=_true_instances,
        true_regions=_true_regions,
        outcomes=_outcomes,
        incorrect_caption="misplaced: {predicted}",
        method_prefix="Seg-",
        pixels_at_once=2**20,
    ),
    decode=_decode,
    drawing=Drawing(
        draw=mask_drawing.draw,
        caption=lambda mask, classes: [],
        legend=mask_drawing.legend,
        comparison=Comparison(
            score_name="pixel accuracy",
            score=mask_drawing.pixel_accuracy,
            panels=mask_drawing.panels,
            main_error=mask_drawing.main_error,
            note=lambda options: "In the difference, wrong pixels are bright and all others grey.",
        ),
    ),
    monitoring=Monitoring(
        outputs=("class_pixels", "mask_png_bytes"),
        predictions=_monitored,
        ground_truth=_ground_truth,
        quality_name="pixel accuracy",
        quality=_mask_accuracy,
    ),
    labeling=Labeling(
        outputs={features.SERVING_DEFAULT: ("mask_png_bytes",), features.EXPLAIN: ("score",)},
        uncertainty=_uncertainty,
        proposal=_proposal,
        agreement=_agreement,
        from_feedback=_from_feedback,
    ),
)
