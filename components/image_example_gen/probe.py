"""A look at a few files before the run: a dataset without a single usable file is refused within seconds."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence

from PIL import Image, ImageChops

from components.image_example_gen import image_file, labels, layouts, limits, raw_examples
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.entries import Entry, RefusedFile
from components.image_example_gen.errors import TooManyBadFilesError, UnusableImageError
from components.image_example_gen.layouts import Candidate
from components.image_example_gen.options import ExampleGenOptions

MOST_FILES = 100
_SMALL_PIXELS = 1_000_000
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "F")
_DRAFT_SIDE = 256


def refuse_unusable(dataset: Dataset, options: ExampleGenOptions) -> None:
    """Examines up to `MOST_FILES` files until one of them is usable.

    The files are evenly spread over the dataset, so that they come from all classes and splits, and are the same in
    every run. A usable dataset costs one image.

    Args:
      dataset: The inspected dataset.
      options: Of ImageExampleGen.

    Raises:
      TooManyBadFilesError: If none of them is usable.
      DamagedContainerError: If a file of many examples is damaged.
    """
    refused: list[RefusedFile] = []
    for candidate in itertools.islice(_candidates(dataset, options), MOST_FILES):
        try:
            _examine(candidate, options)
        except UnusableImageError as error:
            refused.append(RefusedFile(candidate.filename, str(error)))
        else:
            return
    if not refused:
        return
    subject = "The only file is" if len(refused) == 1 else f"All of the {len(refused)} files"
    number = f"{subject} unusable" if len(refused) == 1 else f"{subject} that were examined are unusable"
    raise TooManyBadFilesError(
        f"{dataset.root}: {number}; the run stops before it reads the others."
        f"{limits.describe_groups(limits.group_by_reason(refused))}\nFix the files, then run again."
    )


def has_only_grey_images(dataset: Dataset, options: ExampleGenOptions) -> bool:
    """Whether no image of up to `MOST_FILES` has colours: the same files as in `refuse_unusable`.

    Unusable files are skipped; without a usable one the answer is no.
    """
    has_image = False
    for candidate in itertools.islice(_candidates(dataset, options), MOST_FILES):
        if candidate.problem:
            continue
        try:
            has_colors = _has_colors(candidate.encoded, options.data.max_pixels)
        except Exception:  # a damaged file can break Pillow's parsers in any way
            continue
        if has_colors:
            return False
        has_image |= has_colors is not None
    return has_image


def _has_colors(encoded: bytes, max_pixels: int) -> bool | None:
    """Whether a pixel of an image file is not grey; None if the image is too large to be used.

    Pillow starts faster than the decoder of the run. Damaged files raise any exception.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        if image.width * image.height > max_pixels:
            return None
        if image.mode in _GREY_MODES:
            return False
        image.draft("RGB", (_DRAFT_SIDE, _DRAFT_SIDE))  # of JPEG only
        red, green, blue = image.convert("RGB").split()
        return any(ImageChops.difference(red, other).getbbox() for other in (green, blue))


def _candidates(dataset: Dataset, options: ExampleGenOptions) -> Iterator[Candidate]:
    layout = layouts.get(dataset.layout)
    entries = evenly_spread(dataset.entries, MOST_FILES)
    most = -(-MOST_FILES // max(1, len(entries))) if layout.entries_are_containers else 1
    for entry in entries:
        yield from itertools.islice(layout.read(dataset.root, [entry], options), most)


def evenly_spread(entries: Sequence[Entry], most: int) -> list[Entry]:
    """Returns at most so many entries, at equal distances."""
    count = min(most, len(entries))
    return [entries[index * len(entries) // count] for index in range(count)]


def _examine(candidate: Candidate, options: ExampleGenOptions) -> None:
    if candidate.problem:
        raise UnusableImageError(candidate.problem)
    if set(candidate.label) <= set(labels.CLASS_LABEL) and _is_decodable(candidate.encoded, options.data.max_pixels):
        return
    properties = image_file.examine(image_file.prepare(candidate.encoded, options.data))
    raw_examples.check_label(candidate.label, properties, options)


def _is_decodable(encoded: bytes, max_pixels: int) -> bool:
    """Whether Pillow decodes a small image: it starts faster than the decoder of the run, which decides otherwise."""
    try:
        with Image.open(io.BytesIO(encoded), formats=["JPEG", "PNG"]) as image:
            is_animated = getattr(image, "n_frames", 1) > 1
            if is_animated or image.width * image.height > min(max_pixels, _SMALL_PIXELS):
                return False
            image.load()
    except Exception:  # a damaged file can break Pillow's parsers in any way
        return False
    return True
