"""Raw examples: a checked image, its label, its properties and its slices."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from components.image_example_gen import boxes, example_wire, image_file, labels, mask, splits
from components.image_example_gen.boxes import NormalizedBoxes
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.example_wire import bytes_feature, float_feature, int_feature
from components.image_example_gen.image_file import Examined
from components.image_example_gen.image_properties import ImageProperties
from components.image_example_gen.labels import Value, class_names
from components.image_example_gen.layouts import Candidate
from components.image_example_gen.mask import Mask
from components.image_example_gen.observations import (
    ALPHA_ONLY,
    EIGHT_BITS,
    IGNORED_ORIENTATION,
    ORIENTATION,
    PALETTE,
    PALETTE_COLOR,
    TYPICAL_BITS,
    USED_BITS,
    Observations,
)
from components.image_example_gen.options import ExampleGenOptions
from trainer_module import features
from trainer_module.model_input import FULL_WINDOW, Window

Label = Mapping[str, Sequence[Value]]

# Serialized features that images have in common; of a few hundred bytes each.
_MOST_SHARED = 4096


def serialize(
    filename: str,
    encoded: bytes,
    properties: ImageProperties,
    *,
    label: Label,
    slices: Mapping[str, str],
    sha256: str = "",
    window: Window = FULL_WINDOW,
) -> bytes:
    """Builds the raw example of one image, a serialized tf.train.Example.

    Args:
      filename: Path relative to the data folder.
      encoded: Bytes of the image file.
      properties: Of the image.
      label: Raw example features of the label and their values.
      slices: Slice values, by slice name.
      sha256: Hex digest of the file as it was read; that of `encoded` by default.
      window: The values that 16-bit images of the dataset use.
    """
    mean, deviation = properties.mean, properties.deviation
    entries = [
        bytes_feature(features.IMAGE_ENCODED, (encoded,)),
        _format_feature(properties.format),
        bytes_feature(features.IMAGE_FILENAME, (filename.encode(),)),
        bytes_feature(features.IMAGE_SHA256, ((sha256 or hashlib.sha256(encoded).hexdigest()).encode(),)),
        _size_and_slices(properties.height, properties.width, tuple(slices.items())),
        example_wire.single_floats(
            _MOMENTS, [moment for channel in features.CHANNELS for moment in (mean[channel], deviation[channel])]
        ),
    ]
    for key, values in label.items():
        entries.append(_feature(key, values))
    if window != FULL_WINDOW:
        entries.append(int_feature(features.IMAGE_WINDOW, window))
    return example_wire.example(entries)


@functools.cache
def _format_feature(format_: str) -> bytes:
    return bytes_feature(features.IMAGE_FORMAT, (format_.encode(),))


@functools.lru_cache(_MOST_SHARED)
def _size_and_slices(height: int, width: int, slices: tuple[tuple[str, str], ...]) -> bytes:
    entries = [int_feature(features.IMAGE_HEIGHT, (height,)), int_feature(features.IMAGE_WIDTH, (width,))]
    entries += [bytes_feature(features.SLICE_PREFIX + name, (value.encode(),)) for name, value in slices]
    return b"".join(entries)


_MOMENTS = tuple(key(channel) for channel in features.CHANNELS for key in (features.mean_key, features.deviation_key))
_FEATURES_OF_DTYPES: dict[str, Callable[[str, Sequence[Any]], bytes]] = {
    "string": bytes_feature,
    "float32": float_feature,
    "int64": int_feature,
}


def _feature(key: str, values: Sequence[Value]) -> bytes:
    if not values:
        # An empty list needs the type of the feature: readers refuse one of another type.
        return _FEATURES_OF_DTYPES[features.BOX_DTYPES.get(key, "string")](key, ())
    if isinstance(values[0], int):
        return int_feature(key, cast("Sequence[int]", values))
    if isinstance(values[0], float):
        return float_feature(key, cast("Sequence[float]", values))
    texts = cast("Sequence[str | bytes]", values)
    return bytes_feature(key, [text.encode() if isinstance(text, str) else text for text in texts])


def build(
    candidate: Candidate, examined: Examined, options: ExampleGenOptions, observations: Observations
) -> tuple[splits.Record, bytes]:
    """Builds the serialized raw example of a candidate, and the record that decides about its split.

    Args:
      candidate: The image as it was read.
      examined: The image after examination.
      options: Of ImageExampleGen.
      observations: Receives what can only be judged for all images together.

    Raises:
      UnusableImageError: If the image is not usable, or if the label does not fit it.
    """
    properties = examined.result
    if isinstance(properties, UnusableImageError):
        raise properties
    checked = check_label(candidate.label, properties, options)
    slices = properties.slices() | dict(zip(options.columns, candidate.slices, strict=True))
    for correction in checked.corrections:
        observations.add(correction, candidate.filename)
    if checked.boxes:
        slices |= boxes.slices(checked.boxes.boxes, height=properties.height, width=properties.width)
    # The digest of the file, not of the reduced image: the split of an image does not depend on the others.
    sha256 = hashlib.sha256(candidate.encoded).hexdigest()
    example = serialize(
        candidate.filename,
        examined.encoded,
        properties,
        label=checked.label,
        slices=slices,
        sha256=sha256,
        window=options.window or FULL_WINDOW,
    )
    _observe(candidate.filename, examined, checked.mask, observations)
    record = splits.Record(
        path=candidate.filename,
        classes=class_names(checked.label.items()),
        split=candidate.split,
        group=candidate.group,
        sha256=sha256,
        label_digest=_digest(checked.label),
        perceptual_hash=properties.perceptual_hash,
        pixels=_pixel_counts(checked.mask),
        boxes=boxes.encode(checked.boxes.boxes, options.classes) if checked.boxes else "",
    )
    return record, example


def _observe(name: str, examined: Examined, checked: Mask | None, observations: Observations) -> None:
    if examined.used_bits:
        observations.add(USED_BITS, name, str(examined.used_bits.largest))
        observations.add(TYPICAL_BITS, name, str(examined.used_bits.typical))
    else:
        observations.add(EIGHT_BITS, name)
    for kind, detail in examined.observations:
        observations.add(kind, name, detail)
    if isinstance(examined.result, UnusableImageError):
        return
    orientation = image_file.ignored_orientation(examined.encoded)
    if orientation != 1:
        observations.add(IGNORED_ORIENTATION, name, str(orientation))
    if image_file.has_object_in_alpha(examined.encoded, examined.result):
        observations.add(ALPHA_ONLY, name)
    if checked is None:
        return
    if examined.result.orientation != 1:
        observations.add(ORIENTATION, name, str(examined.result.orientation))
    if checked.palette:
        observations.add(PALETTE, name, str(checked.palette_digest))
    for number, color in checked.palette:
        observations.add(PALETTE_COLOR, name, f"{number} {color}")


def _pixel_counts(checked: Mask | None) -> tuple[int, ...]:
    if checked is None:
        return ()
    counts = checked.pixels | ({splits.IGNORED: checked.ignored} if checked.ignored else {})
    return tuple(itertools.chain.from_iterable(counts.items()))


class CheckedLabel(NamedTuple):
    """A label that fits its image.

    Attributes:
      label: Raw example features and their values.
      mask: The mask, if the label is one.
      boxes: The boxes, if the label consists of them.
      corrections: What was corrected in the annotation of the boxes.
    """

    label: Label
    mask: Mask | None = None
    boxes: NormalizedBoxes | None = None
    corrections: tuple[str, ...] = ()


def check_label(raw: Label, properties: ImageProperties, options: ExampleGenOptions) -> CheckedLabel:
    """Checks a label against its image, and derives the features that follow from it.

    Raises:
      UnusableImageError: If the label does not fit the image.
    """
    if boxes.is_unchecked(raw):
        fitted = _fit_boxes(raw, properties, options)
        corrections = tuple(fitted.corrections.elements())
        if not labels.has_boxes(options.label_features):
            # Objects that are hard to recognise, and crowds, are in the image as well.
            return CheckedLabel(dict(labels.of_classes(box.name for box in fitted.boxes)), corrections=corrections)
        label = boxes.raw_label(fitted.boxes, height=properties.height, width=properties.width)
        return CheckedLabel(label, boxes=fitted, corrections=corrections)
    if features.MASK_ENCODED not in raw:
        return CheckedLabel(raw)
    (encoded,) = raw[features.MASK_ENCODED]
    assert isinstance(encoded, bytes)
    normalized = mask.normalize(
        encoded,
        height=properties.height,
        width=properties.width,
        encoding=options.mask_encoding(),
        orientation=properties.orientation,
    )
    derived: dict[str, Sequence[Value]] = {
        features.MASK_ENCODED: (normalized.png,),
        features.MASK_CLASSES: [options.classes[number] for number in normalized.pixels],
    }
    return CheckedLabel({**raw, **derived}, normalized)


def _fit_boxes(raw: Label, properties: ImageProperties, options: ExampleGenOptions) -> NormalizedBoxes:
    return boxes.normalize(
        boxes.Annotation.from_label(raw),
        height=properties.height,
        width=properties.width,
        orientation=properties.orientation,
        drawn_on=options.data.box_orientation,
    )


def _digest(label: Label) -> str:
    """Returns 64 bits, in hex: few, since one process has those of all images in memory."""
    digest = hashlib.sha256()
    for feature, values in sorted(label.items()):
        digest.update(feature.encode())
        for value in values:
            digest.update(value if isinstance(value, bytes) else repr(value).encode())
    return digest.hexdigest()[:16]
