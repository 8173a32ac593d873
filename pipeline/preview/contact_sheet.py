"""A contact sheet of augmentation: original images, and beside each of them samples as training sees them."""

from __future__ import annotations

import collections
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.image_example_gen import layouts
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.errors import DamagedContainerError, UnusableImageError
from components.image_example_gen.labels import Value, class_names
from components.image_example_gen.layouts import Candidate
from components.image_example_gen.options import ExampleGenOptions
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution.dataset import example_gen_options
from trainer_module import drawing_font, features, image_statistics, tasks
from trainer_module.model_input import Size, Window
from trainer_module.options import TrainerOptions

_Item = TypeVar("_Item")
_Label = Mapping[str, Sequence[Value]]

SAMPLES = 7  # per image


class _Usable(NamedTuple):
    """An image of the sheet, as ImageExampleGen stores it; `size` is its height and width."""

    candidate: Candidate
    label: _Label
    size: Size


# Examples of container files to read: their classes are known only after reading.
_MAX_EXAMPLES = 1000

# Pixels.
_MIN_CELL, _MAX_CELL = 128, 224
_MARGIN, _GAP, _LINE = 28, 10, 18
_TEXT_SIZE, _TITLE_SIZE = 14, 20
_INK, _PALE_INK, _PAPER = (28, 28, 30), (110, 110, 115), (255, 255, 255)


class LabelledImage(NamedTuple):
    """An image and its label, as training sees them.

    Attributes:
      pixels: uint8 [s, s, c].
      label: One example of what `TaskSpec.labels` or `TaskSpec.augment` returns.
      name: Path of the image.
    """

    pixels: np.ndarray
    label: np.ndarray
    name: str = ""


def make(
    config: PipelineConfig, dataset: Dataset, num: int, on_unusable: Callable[[str], None]
) -> tuple[Image.Image, int]:
    """Draws the contact sheet of a configuration.

    Args:
      config: The whole configuration.
      dataset: The images.
      num: Number of images.
      on_unusable: Called with the path of an unusable image and the reason.

    Returns:
      The contact sheet, and the number of images on it.

    Raises:
      ConfigError: If no augmentation is configured, or if no image is usable.
    """
    if not config.augmentation.active():
        raise ConfigError(
            "[augmentation] sets nothing, so that all samples would equal the original. Set an augmentation, for "
            "example --set augmentation.horizontal_flip=true --set augmentation.rotation=0.05."
        )
    options = config.trainer_options(dataset.classes, dataset.ignore_id, dataset.is_grey)
    originals = read(config, options, dataset, num, on_unusable)
    return draw(config.pipeline.name, originals, augment(originals, options), options), len(originals)


# === Reading ===


def read(
    config: PipelineConfig, options: TrainerOptions, dataset: Dataset, num: int, on_unusable: Callable[[str], None]
) -> tuple[LabelledImage, ...]:
    """Reads training images, one class after another; if there are more classes than images, evenly spread ones.

    Args:
      config: `data` is read.
      options: Those of the run.
      dataset: The images.
      num: Number of images; the dataset may have fewer.
      on_unusable: Called with the path of an unusable image and the reason.

    Raises:
      ConfigError: If no image is usable.
    """
    reading = example_gen_options(config, dataset)
    usable: list[_Usable] = []
    try:
        for candidate in _candidates(dataset, reading, num):
            try:
                usable.append(_check(candidate, reading))
            except UnusableImageError as error:
                on_unusable(f"{candidate.filename}: {error}")
            if len(usable) == num:
                break
    except DamagedContainerError as error:
        raise ConfigError(f"{dataset.root}: {error}") from None
    if not usable:
        raise ConfigError(f"{dataset.root} has no usable image.")
    window = _window([image.candidate.encoded for image in usable], reading)
    return tuple(_decode(image, window, options) for image in usable)


def _candidates(dataset: Dataset, reading: ExampleGenOptions, num: int) -> Iterator[Candidate]:
    """Reads images of the train split, one class after another."""
    layout = layouts.get(dataset.layout)
    # In the order of the hash of their names: the same in every call.
    entries = sorted(
        (entry for entry in dataset.entries if entry.split in ("", features.TRAIN)),
        key=lambda entry: hashlib.md5(entry.path.encode(errors="surrogateescape"), usedforsecurity=False).digest(),
    )
    if not layout.entries_are_containers:
        return layout.read(dataset.root, list(_alternate(entries, lambda entry: entry.classes, num)), reading)
    counts: collections.Counter[tuple[str, ...]] = collections.Counter()
    usable = []  # at most `num` per class: they are in memory
    for candidate in itertools.islice(layout.read(dataset.root, entries, reading), _MAX_EXAMPLES):
        counts[_classes_of(candidate)] += 1
        if not candidate.problem and counts[_classes_of(candidate)] <= num:
            usable.append(candidate)
    return _alternate(usable, _classes_of, num)


def _classes_of(candidate: Candidate) -> tuple[str, ...]:
    return class_names(candidate.label.items())


def _alternate(items: Iterable[_Item], key: Callable[[_Item], tuple[str, ...]], num: int) -> Iterator[_Item]:
    """Takes one item per class in turn; of more than `num` classes, evenly spread ones."""
    by_class: dict[tuple[str, ...], list[_Item]] = {}
    for item in items:
        by_class.setdefault(key(item), []).append(item)
    groups = [by_class[name] for name in sorted(by_class)]
    if len(groups) > num:
        groups = [groups[number * len(groups) // num] for number in range(num)]
    for turn in itertools.zip_longest(*groups):
        yield from (item for item in turn if item is not None)


def _check(candidate: Candidate, reading: ExampleGenOptions) -> _Usable:
    """Returns the candidate with the bytes that ImageExampleGen would store, its label and its size."""
    from components.image_example_gen import image_file, raw_examples

    if candidate.problem:
        raise UnusableImageError(candidate.problem)
    prepared = image_file.prepare(candidate.encoded, reading.data)
    properties = image_file.examine(prepared)
    label = raw_examples.check_label(candidate.label, properties, reading).label
    return _Usable(candidate._replace(encoded=prepared.encoded), label, (properties.height, properties.width))


def _window(contents: Sequence[bytes], reading: ExampleGenOptions) -> Window:
    """Returns the values that 16-bit images use; ImageExampleGen detects them in all images, the sheet in its own."""
    from components.image_example_gen import bit_depth

    if reading.window is not None:
        return reading.window
    measured = [bit_depth.used_bits(content) for content in contents if image_statistics.is_deep_png(content)]
    return bit_depth.detect([bits.largest for bits in measured if bits])


def _decode(image: _Usable, window: Window, options: TrainerOptions) -> LabelledImage:
    import tensorflow as tf

    from trainer_module import preprocessing

    transform, encoded = options.transform, tf.constant([image.candidate.encoded])
    pixels = preprocessing.decode_and_resize(encoded, transform.geometry, transform.num_channels, window)
    labels = tasks.get(options.task.name).labels([image.label], [image.size], options)
    return LabelledImage(pixels[0].numpy(), labels[0].numpy(), image.candidate.filename)


# === Augmentation ===


def augment(images: Sequence[LabelledImage], options: TrainerOptions) -> tuple[tuple[LabelledImage, ...], ...]:
    """Changes images with the function that training uses: SAMPLES samples per image.

    MixUp and CutMix mix an image with the next one on the sheet, as in a batch.
    """
    import tensorflow as tf

    change = tasks.get(options.task.name).augment(options)
    pixels = tf.constant(np.stack([image.pixels for image in images]))
    labels = tf.constant(np.stack([image.label for image in images]))
    columns = []
    for number in range(SAMPLES):
        changed, changed_labels = change(tf.constant([options.training.seed, number], tf.int64), pixels, labels)
        rounded = np.clip(np.round(changed.numpy()), 0, 255).astype(np.uint8)
        columns.append([LabelledImage(*sample) for sample in zip(rounded, changed_labels.numpy(), strict=True)])
    return tuple(zip(*columns, strict=True))


# === Drawing ===
#
# Pillow draws the sheet. matplotlib was tried: it takes 1.5 s instead of 0.1 s, neither cuts nor wraps text at the
# width of a column, and the size of a cell must still be computed so that its pixels stay squares.


def draw(
    name: str,
    originals: Sequence[LabelledImage],
    samples: Sequence[Sequence[LabelledImage]],
    options: TrainerOptions,
) -> Image.Image:
    """Draws the sheet: one row per image, the original first.

    Small images are enlarged by a whole number without smoothing: the network sees sharp pixels.

    Args:
      name: Name of the pipeline, for the title.
      originals: From `read`.
      samples: From `augment`.
      options: Those of the run.
    """
    drawing, classes = tasks.get(options.task.name).drawing, options.classes
    text, title = drawing_font.load(_TEXT_SIZE), drawing_font.load(_TITLE_SIZE, bold=True)
    longest = max(options.transform.image_size)
    scale = max(1, math.ceil(_MIN_CELL / longest))
    factor = scale if longest <= _MAX_CELL else _MAX_CELL / longest
    cell_height, cell = (round(factor * side) for side in options.transform.image_size)
    rows = [[original, *row] for original, row in zip(originals, samples, strict=True)]
    captions = [[drawing.caption(image.label, classes) for image in row] for row in rows]
    # A sample's caption is shown only if its label differs from the original's.
    captions = [[first, *([] if lines == first else lines for lines in rest)] for first, *rest in captions]
    legend = drawing.legend(classes, options.ignore_id, [image.label for row in rows for image in row])

    width = 2 * _MARGIN + (SAMPLES + 1) * (cell + _GAP)  # one more gap separates the original
    settings = [_setting(key, value) for key, value in options.augmentation.active().items()]
    subtitle = _wrap([*settings, f"seed {options.training.seed}"], text, width - 2 * _MARGIN)
    legend_lines = _wrap([entry for entry, _ in legend], text, width - 2 * _MARGIN, box=18)
    row_height = cell_height + _GAP + max(_LINE * len(lines) + 4 * bool(lines) for row in captions for lines in row)
    header = _MARGIN + _TITLE_SIZE + 12 + _LINE * len(subtitle) + 16
    footer = header + _LINE + 6 + row_height * len(rows) + 8
    height = footer + (_LINE + 6) * len(legend_lines) + _MARGIN - 8

    sheet = Image.new("RGB", (width, height), _PAPER)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((_MARGIN, _MARGIN - 4), f"{name}: augmentation", _INK, title)
    for number, words in enumerate(subtitle):
        canvas.text((_MARGIN, _MARGIN + _TITLE_SIZE + 12 + number * _LINE), _SPACE.join(words), _PALE_INK, text)
    lefts = [_MARGIN, *(_MARGIN + column * (cell + _GAP) + _GAP for column in range(1, SAMPLES + 1))]
    for left, heading in zip(lefts, ["original", *(f"sample {n}" for n in range(1, SAMPLES + 1))], strict=True):
        canvas.text((left, header), heading, _PALE_INK, text)
    for number, (row, row_captions) in enumerate(zip(rows, captions, strict=True)):
        top = header + _LINE + 6 + number * row_height
        for left, image, lines in zip(lefts, row, row_captions, strict=True):
            drawn = Image.fromarray(drawing.draw(image.pixels, image.label, classes, options.ignore_id, scale))
            sheet.paste(drawn.resize((cell, cell_height), Image.Resampling.BOX), (left, top))
            for line_number, line in enumerate(lines):
                place = (left, top + cell_height + 3 + line_number * _LINE)
                canvas.text(place, _shorten(line, text, cell), _INK, text)
    entries = iter(legend)
    for number, words in enumerate(legend_lines):
        position, top = float(_MARGIN), footer + number * (_LINE + 6)
        for word, (_, color) in zip(words, entries, strict=False):
            canvas.rectangle((position, top + 3, position + 12, top + 15), color)
            canvas.text((position + 18, top), word, _INK, text)
            position += 18 + text.getlength(word + _SPACE)
    return sheet


_SPACE = "   "


def _setting(key: str, value: bool | float) -> str:
    name = key.replace("_", " ")
    return name if value is True else f"{name} {value:g}"


def _wrap(words: Iterable[str], font: ImageFont.FreeTypeFont, width: int, box: int = 0) -> list[list[str]]:
    """Distributes words over lines of at most `width` pixels; before each word is a box of so many pixels."""
    lines: list[list[str]] = []
    remaining = 0.0
    for word in words:
        needed = box + font.getlength(word)
        if not lines or needed > remaining:
            lines.append([])
            remaining = width
        lines[-1].append(word)
        remaining -= needed + font.getlength(_SPACE)
    return lines


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cuts text that is too wide, but keeps a share at its end."""
    if font.getlength(text) <= width:
        return text
    name, colon, share = text.rpartition(": ")
    name, kept = (name, f"…{colon}{share}") if colon else (text, "…")
    while name and font.getlength(name + kept) > width:
        name = name[:-1]
    return name + kept
