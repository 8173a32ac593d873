"""A picture of what augmentation does: originals, and beside each what training sees of it."""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.image_example_gen import layouts
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.errors import DamagedContainerError, UnusableImageError
from components.image_example_gen.labels import class_names
from components.image_example_gen.layouts import Candidate
from components.image_example_gen.options import ExampleGenOptions
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from trainer_module import features

_Item = TypeVar("_Item")

SAMPLES = 7  # of every picture

# Of TFRecords, whose classes are known only when they are read.
_MOST_RECORDS = 1000

# Pixels.
_SMALLEST_CELL, _LARGEST_CELL = 128, 224
_MARGIN, _GAP, _LINE = 28, 10, 18
_TEXT_SIZE, _TITLE_SIZE = 14, 20
_INK, _PALE_INK, _PAPER = (28, 28, 30), (110, 110, 115), (255, 255, 255)
_MASK_ALPHA = 0.6
_UNPAINTED = "background"  # of masks: the class that needs no colour


class Picture(NamedTuple):
    """A picture as it goes into the network.

    Attributes:
      name: Its path.
      label: Its class; empty with a mask.
      pixels: uint8 [s, s, c].
      mask: uint8 [s, s] of class ids; None with a class.
    """

    name: str
    label: str
    pixels: np.ndarray
    mask: np.ndarray | None = None


class Sample(NamedTuple):
    """What training sees of a picture.

    Attributes:
      pixels: uint8 [s, s, c].
      shares: float [C], shares of the classes where pictures are mixed.
      mask: uint8 [s, s] where the picture has one.
    """

    pixels: np.ndarray
    shares: np.ndarray | None = None
    mask: np.ndarray | None = None


def make(
    config: PipelineConfig, found: Dataset, num: int, on_unusable: Callable[[str], None]
) -> tuple[Image.Image, int]:
    """Draws the sheet of a configuration.

    Args:
      config: The whole configuration.
      found: Where the pictures are.
      num: How many of them.
      on_unusable: Called with the path of what cannot be used, and why.

    Returns:
      The sheet, and the number of pictures on it.

    Raises:
      ConfigError: If no augmentation is asked for, or no picture can be used.
    """
    if not config.augmentation.active():
        raise ConfigError(
            "[augmentation] asks for nothing, so that all samples would be the original. Set some of it, for example "
            "--set augmentation.horizontal_flip=true --set augmentation.rotation=0.05."
        )
    pictures = read(config, found, num, on_unusable)
    return draw(pictures, samples_of(pictures, config, found.classes), config, found.classes), len(pictures)


# --- Reading ----------------------------------------------------------------------------------------------------


def read(config: PipelineConfig, found: Dataset, num: int, on_unusable: Callable[[str], None]) -> tuple[Picture, ...]:
    """Reads some pictures that may be trained on, classes in turn; those of many classes are spread over all.

    Args:
      config: `data` and `transform` are read.
      found: Where the pictures are.
      num: How many; there may be fewer.
      on_unusable: Called with the path of what cannot be used, and why.

    Raises:
      ConfigError: If none can be used.
    """
    options = ExampleGenOptions(
        data=config.data.options(),
        classes=found.classes,
        ignore_id=found.ignore_id,
        columns=found.columns,
        label_features=found.label_features,
    )
    pictures: list[Picture] = []
    try:
        for candidate in _candidates(found, options, num):
            try:
                pictures.append(_decode(candidate, config, options))
            except UnusableImageError as error:
                on_unusable(f"{candidate.filename}: {error}")
            if len(pictures) == num:
                break
    except DamagedContainerError as error:
        raise ConfigError(f"{found.root}: {error}") from None
    if not pictures:
        raise ConfigError(f"{found.root} has no picture that can be used.")
    return tuple(pictures)


def _candidates(found: Dataset, options: ExampleGenOptions, num: int) -> Iterator[Candidate]:
    """Reads images of the train split, classes in turn."""
    layout = layouts.get(found.layout)
    # Mixed by the hash of their names, and so the same in every call.
    entries = sorted(
        (entry for entry in found.entries if entry.split in ("", features.TRAIN)),
        key=lambda entry: hashlib.md5(entry.path.encode(errors="surrogateescape"), usedforsecurity=False).digest(),
    )
    if not layout.entries_are_containers:
        return layout.read(found.root, list(_in_turn(entries, lambda entry: entry.classes, num)), options)
    counts: collections.Counter[tuple[str, ...]] = collections.Counter()
    usable = []  # of every class no more than are needed: they are in memory
    for candidate in itertools.islice(layout.read(found.root, entries, options), _MOST_RECORDS):
        counts[_classes_of(candidate)] += 1
        if not candidate.problem and counts[_classes_of(candidate)] <= num:
            usable.append(candidate)
    return _in_turn(usable, _classes_of, num)


def _classes_of(candidate: Candidate) -> tuple[str, ...]:
    return class_names(candidate.label.items())


def _in_turn(items: Iterable[_Item], key: Callable[[_Item], tuple[str, ...]], num: int) -> Iterator[_Item]:
    """One of every class, then the next of every class; of more than `num` classes as many, evenly."""
    by_class: dict[tuple[str, ...], list[_Item]] = {}
    for item in items:
        by_class.setdefault(key(item), []).append(item)
    groups = [by_class[name] for name in sorted(by_class)]
    if len(groups) > num:
        groups = [groups[number * len(groups) // num] for number in range(num)]
    for turn in itertools.zip_longest(*groups):
        yield from (item for item in turn if item is not None)


def _decode(candidate: Candidate, config: PipelineConfig, options: ExampleGenOptions) -> Picture:
    import tensorflow as tf

    from components.image_example_gen import image_file, raw_examples
    from trainer_module import preprocessing

    if candidate.problem:
        raise UnusableImageError(candidate.problem)
    transform = config.transform
    properties = image_file.examine(candidate.encoded, config.data.max_pixels)
    label = raw_examples.check_label(candidate.label, properties, options)
    encoded = tf.constant([candidate.encoded])
    pixels = preprocessing.decode_and_resize(encoded, transform.image_size, transform.channels)[0].numpy()
    ids = None
    if features.MASK_ENCODED in label:
        masks = tf.constant(label[features.MASK_ENCODED])
        ids = preprocessing.decode_and_resize_masks(masks, transform.image_size)[0].numpy()
    return Picture(candidate.filename, ", ".join(_classes_of(candidate)), pixels, ids)


# --- Changing ---------------------------------------------------------------------------------------------------


def samples_of(
    pictures: Sequence[Picture], config: PipelineConfig, classes: tuple[str, ...]
) -> tuple[tuple[Sample, ...], ...]:
    """Changes pictures by the function that training uses: for every picture, SAMPLES samples.

    Mixing mixes a picture with the next in the sheet, as it does in a batch.
    """
    import tensorflow as tf

    from trainer_module import tasks

    options = config.trainer_options(classes)
    change = tasks.get(options.task.name).augment(options)
    pixels = tf.constant(np.stack([picture.pixels for picture in pictures]))
    masks = [picture.mask for picture in pictures if picture.mask is not None]
    truth = tf.constant(
        np.stack(masks) if masks else np.array([classes.index(picture.label) for picture in pictures], np.int64)
    )
    columns = []
    for number in range(SAMPLES):
        changed, labels = change(tf.constant([config.training.seed, number], tf.int64), pixels, truth)
        rounded = np.clip(np.round(changed.numpy()), 0, 255).astype(np.uint8)
        mixed = config.augmentation.mixes()
        columns.append(
            [
                Sample(one, label if mixed else None, label if masks else None)
                for one, label in zip(rounded, labels.numpy(), strict=True)
            ]
        )
    return tuple(zip(*columns, strict=True))


# --- Drawing ----------------------------------------------------------------------------------------------------


def draw(
    pictures: Sequence[Picture],
    samples: Sequence[Sequence[Sample]],
    config: PipelineConfig,
    classes: tuple[str, ...],
) -> Image.Image:
    """Draws the sheet: a row for every picture, the original first.

    A small picture is enlarged by a whole number, without smoothing: what is sharp is what the network gets.
    """
    text, title = _font(_TEXT_SIZE), _font(_TITLE_SIZE, bold=True)
    size = config.transform.image_size
    cell = size * math.ceil(_SMALLEST_CELL / size) if size <= _LARGEST_CELL else _LARGEST_CELL
    mixes = config.augmentation.mixes()
    with_labels = pictures[0].mask is None
    row_height = cell + _GAP + (_LINE * (2 if mixes else 1) + 4 if with_labels else 0)
    width = 2 * _MARGIN + (SAMPLES + 1) * (cell + _GAP)  # one more gap sets the original apart
    settings = "   ".join(_setting(key, value) for key, value in config.augmentation.active().items())
    subtitle = _wrapped(f"{settings}   seed {config.training.seed}", text, width - 2 * _MARGIN)
    legend = [] if with_labels else _legend(pictures, samples, classes, text, width - 2 * _MARGIN)
    header = _MARGIN + _TITLE_SIZE + 12 + _LINE * len(subtitle) + 16
    height = header + _LINE + 6 + row_height * len(pictures) + (_LINE + 6) * len(legend) + _MARGIN

    sheet = Image.new("RGB", (width, height), _PAPER)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((_MARGIN, _MARGIN - 4), f"{config.pipeline.name}: augmentation", _INK, title)
    for number, line in enumerate(subtitle):
        canvas.text((_MARGIN, _MARGIN + _TITLE_SIZE + 12 + number * _LINE), line, _PALE_INK, text)
    lefts = [_MARGIN, *(_MARGIN + column * (cell + _GAP) + _GAP for column in range(1, SAMPLES + 1))]
    for left, heading in zip(lefts, ["original", *(f"sample {n}" for n in range(1, SAMPLES + 1))], strict=True):
        canvas.text((left, header), heading, _PALE_INK, text)

    for row, (picture, its_samples) in enumerate(zip(pictures, samples, strict=True)):
        top = header + _LINE + 6 + row * row_height
        sheet.paste(_cell(picture.pixels, picture.mask, classes, cell), (lefts[0], top))
        canvas.text((lefts[0], top + cell + 3), _shortened(picture.label, text, cell), _INK, text)
        for left, sample in zip(lefts[1:], its_samples, strict=True):
            sheet.paste(_cell(sample.pixels, sample.mask, classes, cell), (left, top))
            for number, line in enumerate(_shares(sample, classes)):
                canvas.text((left, top + cell + 3 + number * _LINE), _shortened(line, text, cell), _INK, text)

    for line_number, entries in enumerate(legend):
        left, top = _MARGIN, header + _LINE + 6 + row_height * len(pictures) + 8 + line_number * (_LINE + 6)
        for name, entry_width in entries:
            canvas.rectangle((left, top + 3, left + 12, top + 15), tuple(_colors()[classes.index(name)]))
            canvas.text((left + 18, top), name, _INK, text)
            left += entry_width
    return sheet


def _cell(pixels: np.ndarray, mask: np.ndarray | None, classes: tuple[str, ...], side: int) -> Image.Image:
    shown = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
    if mask is not None:
        painted = np.isin(mask, [index for index, name in enumerate(classes) if name != _UNPAINTED])
        blended = (1 - _MASK_ALPHA) * shown + _MASK_ALPHA * _colors()[mask]
        shown = np.where(painted[..., np.newaxis], np.round(blended), shown).astype(np.uint8)
    how = Image.Resampling.NEAREST if side >= len(shown) else Image.Resampling.BOX
    return Image.fromarray(shown).resize((side, side), how)


@functools.cache
def _colors() -> np.ndarray:
    """One of forty colours for every id, uint8 [256, 3]; the most different ones first."""
    import matplotlib

    strong_and_light, others = (matplotlib.colormaps[name](range(20))[:, :3] for name in ("tab20", "tab20b"))
    forty = np.concatenate([strong_and_light[::2], strong_and_light[1::2], others])
    return np.round(255 * np.resize(forty, (256, 3))).astype(np.uint8)


def _shares(sample: Sample, classes: tuple[str, ...]) -> list[str]:
    """The two largest shares of a mixed label, the larger first; no more than two pictures are mixed."""
    if sample.shares is None:
        return []
    largest = np.argsort(-sample.shares, kind="stable")[:2]
    return [f"{classes[index]}: {sample.shares[index]:.0%}" for index in largest if sample.shares[index] >= 0.005]


def _setting(key: str, value: bool | float) -> str:
    name = key.replace("_", " ")
    return name if value is True else f"{name} {value:g}"


def _legend(
    pictures: Sequence[Picture],
    samples: Sequence[Sequence[Sample]],
    classes: tuple[str, ...],
    font: ImageFont.FreeTypeFont,
    width: int,
) -> list[list[tuple[str, int]]]:
    """Lines of (class that some mask shows, width of its entry)."""
    masks = [picture.mask for picture in pictures] + [sample.mask for row in samples for sample in row]
    shown = np.unique(np.stack([mask for mask in masks if mask is not None]))
    names = [classes[index] for index in shown if index < len(classes) and classes[index] != _UNPAINTED]
    lines: list[list[tuple[str, int]]] = []
    room = 0
    for name in names:
        entry_width = 18 + math.ceil(font.getlength(name)) + 20
        if entry_width > room:
            lines.append([])
            room = width
        lines[-1].append((name, entry_width))
        room -= entry_width
    return lines


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for part in text.split("   "):
        longer = f"{lines[-1]}   {part}" if lines else part
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Leaves out the middle of what is too wide: a share at the end stays."""
    if font.getlength(text) <= width:
        return text
    name, colon, share = text.rpartition(": ")
    name, kept = (name, f"…{colon}{share}") if colon else (text, "…")
    while name and font.getlength(name + kept) > width:
        name = name[:-1]
    return name + kept


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: it has the letters of many languages."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
