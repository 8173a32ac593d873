"""Raw examples: a checked image, its label, its properties and its slices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from components.image_example_gen import mask, splits
from components.image_example_gen.image_properties import ImageProperties
from components.image_example_gen.labels import Value, class_names
from components.image_example_gen.layouts import Candidate
from components.image_example_gen.options import ExampleGenOptions
from trainer_module import features

Label = Mapping[str, Sequence[Value]]


def to_example(
    filename: str, encoded: bytes, properties: ImageProperties, *, label: Label, slices: Mapping[str, str]
) -> tf.train.Example:
    """Builds the raw example of one image.

    Args:
      filename: Path relative to the data folder.
      encoded: Bytes of the image file.
      properties: Of the image.
      label: Raw example features of the label and their values.
      slices: Slice values, by slice name.
    """
    example = tf.train.Example()
    feature = example.features.feature
    strings = {
        features.IMAGE_FORMAT: properties.format,
        features.IMAGE_FILENAME: filename,
        features.IMAGE_SHA256: hashlib.sha256(encoded).hexdigest(),
        **{features.SLICE_PREFIX + name: value for name, value in slices.items()},
    }
    feature[features.IMAGE_ENCODED].bytes_list.value.append(encoded)
    for key, text in strings.items():
        feature[key].bytes_list.value.append(text.encode())
    feature[features.IMAGE_HEIGHT].int64_list.value.append(properties.height)
    feature[features.IMAGE_WIDTH].int64_list.value.append(properties.width)
    for channel in features.CHANNELS:
        feature[features.mean_key(channel)].float_list.value.append(properties.mean[channel])
        feature[features.deviation_key(channel)].float_list.value.append(properties.deviation[channel])
    for key, values in label.items():
        _set(feature[key], values)
    return example


def _set(feature: tf.train.Feature, values: Sequence[Value]) -> None:
    if values and isinstance(values[0], int):
        feature.int64_list.value.extend(values)
    elif values and isinstance(values[0], float):
        feature.float_list.value.extend(values)
    else:
        feature.bytes_list.value.extend(value.encode() if isinstance(value, str) else value for value in values)


def build(
    candidate: Candidate, encoded: bytes, properties: ImageProperties, options: ExampleGenOptions
) -> tuple[splits.Record, tf.train.Example]:
    """Builds the raw example of a candidate, and the record that decides about its split.

    Args:
      candidate: The image as it was read.
      encoded: Bytes of the image file.
      properties: Of the image.
      options: Of ImageExampleGen.

    Raises:
      UnusableImageError: If the label does not fit the image.
    """
    label = check_label(candidate.label, properties, options)
    slices = properties.slices() | dict(zip(options.columns, candidate.slices, strict=True))
    example = to_example(candidate.filename, encoded, properties, label=label, slices=slices)
    record = splits.Record(
        path=candidate.filename,
        classes=class_names(label.items()),
        split=candidate.split,
        group=candidate.group,
        sha256=example.features.feature[features.IMAGE_SHA256].bytes_list.value[0].decode(),
        label_digest=_digest(label),
        perceptual_hash=properties.perceptual_hash,
    )
    return record, example


def check_label(raw: Label, properties: ImageProperties, options: ExampleGenOptions) -> Label:
    """Checks a label against its image, and derives the features that follow from it.

    Raises:
      UnusableImageError: If the label does not fit the image.
    """
    label: dict[str, Sequence[Value]] = {}
    for feature, values in raw.items():
        check = _CHECKS.get(feature)
        label |= check(values, properties, options) if check else {feature: values}
    return label


def _digest(label: Label) -> str:
    """Returns 64 bits, in hex: few, since one process has those of all images in memory."""
    digest = hashlib.sha256()
    for feature, values in sorted(label.items()):
        digest.update(feature.encode())
        for value in values:
            digest.update(value if isinstance(value, bytes) else repr(value).encode())
    return digest.hexdigest()[:16]


def _check_mask(values: Sequence[Value], properties: ImageProperties, options: ExampleGenOptions) -> Label:
    """Returns the mask as a grey PNG, and the names of the classes that occur in it."""
    (encoded,) = values
    assert isinstance(encoded, bytes)
    png, class_ids = mask.normalize(
        encoded,
        height=properties.height,
        width=properties.width,
        num_classes=len(options.classes),
        ignore_id=options.ignore_id,
    )
    return {features.MASK_ENCODED: (png,), features.MASK_CLASSES: [options.classes[number] for number in class_ids]}


# What is checked and derived where a label has a feature; other features are stored as they are.
_CHECKS: dict[str, Callable[[Sequence[Value], ImageProperties, ExampleGenOptions], Label]] = {
    features.MASK_ENCODED: _check_mask,
}
