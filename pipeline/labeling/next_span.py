"""Writes images with confirmed labels as the next span of a dataset, which ImageExampleGen reads."""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.image_example_gen import (
    class_list,
    files,
    image_file,
    labelled_span,
    labels,
    layouts,
    raw_examples,
    spans,
)
from components.image_example_gen.dataset import Dataset, list_folder
from components.image_example_gen.errors import DatasetError, UnusableImageError
from components.image_example_gen.labelled_span import ImageOrigin, Provenance, Row
from components.image_example_gen.options import DataOptions, ExampleGenOptions
from pipeline.config.sections import PipelineConfig
from pipeline.execution.dataset import all_spans, example_gen_options
from pipeline.labeling.confirmed import ConfirmedImage, Label, same_label
from pipeline.labeling.image_files import file_name, mask_ids, upright_size
from trainer_module import features, locations
from trainer_module.error_text import listed
from trainer_module.model_input import FULL_WINDOW

_MOST_SHOWN = 5
_MOST_ATTEMPTS = 100
# Largest difference of a coordinate after it was written and read: those of raw examples are float32.
_COORDINATE_TOLERANCE = 1e-5


class WrittenSpan(NamedTuple):
    """The span that was written.

    Attributes:
      number: Its number.
      path: Its folder.
      images: Number of images in it.
      known: File names of the images that the dataset contained already, with the same label; they are not in it.
      is_read_with_others: Whether `data.spans` selects earlier spans too; otherwise a run trains on this span alone.
    """

    number: int
    path: str
    images: int
    known: tuple[str, ...]
    is_read_with_others: bool


def whole_dataset(config: PipelineConfig) -> Dataset:
    """Lists all spans of a dataset, whichever a run would read.

    Raises:
      DatasetError: If it cannot be trained on, or if its path has no placeholder.
    """
    location = config.data_location
    if not spans.has_spans(location):
        parent, _, name = location.rstrip("/").rpartition("/")
        raise DatasetError(
            f"data.path = {location} has no {{SPAN}}, so that images cannot be added as a span. Move the folder to "
            f"{parent}/{name}-spans/1, and set data.path to {parent}/{name}-spans/{{SPAN}} and data.spans to all."
        )
    if locations.is_remote(location):
        raise DatasetError(
            f"data.path = {location}: spans are written to local folders only. Write the span to a local copy of the "
            "dataset, and copy its folder."
        )
    return all_spans(config)


def write(
    config: PipelineConfig,
    images: Sequence[ConfirmedImage],
    *,
    dataset: Dataset | None = None,
    allow_new_classes: bool = False,
    today: datetime.date | None = None,
) -> WrittenSpan:
    """Writes the next span: all of its images or nothing.

    The span is written beside the others under a hidden name, read back as ImageExampleGen reads it, compared with the
    labels that were given, and renamed. An existing folder is never replaced.

    Args:
      config: Names the dataset; `data.path` must have a placeholder such as `{SPAN}`.
      images: At least one. An image that the dataset contains with the same label is skipped.
      dataset: From `whole_dataset`; listed if absent.
      allow_new_classes: Whether labels may have classes that the dataset does not have yet.
      today: Of the span, if spans are dates; by default that of UTC.

    Raises:
      DatasetError: If an image or a label cannot be used, if an image is in the dataset with another label, if a class
        is unknown, or if the dataset cannot have another span.
    """
    dataset = dataset or whole_dataset(config)
    if layouts.get(dataset.layout).entries_are_containers:
        raise DatasetError(
            f"{config.data_location}: the spans are TFRecord files, and images with labels cannot be added to these. "
            "Write the images as TFRecords with the program that wrote the others."
        )
    options = example_gen_options(config, dataset)
    distinct = _without_repetitions(images)
    _check_labels(distinct, dataset, config.data_options, allow_new_classes=allow_new_classes)
    added, known = _new_images(distinct, dataset, options)
    if not added:
        raise DatasetError(
            f"{config.data_location} contains all of these {len(distinct):,} images already, with the same labels: "
            "there is nothing to add."
        )
    pattern = config.data_location
    root = Path(spans.root_of(pattern))
    newest = spans.resolve(pattern, "newest")[0]
    with _staging(root) as staged:
        _write_folder(staged, added, dataset, options, str(root / newest.path))
        _verify(staged, added, dataset, config.data_options, options)
        number, path = _publish(staged, pattern, root, today or datetime.datetime.now(datetime.UTC).date())
    return WrittenSpan(number, str(path), len(added), tuple(known), config.data.spans != "newest")


# === Checking ===


def _without_repetitions(images: Sequence[ConfirmedImage]) -> list[ConfirmedImage]:
    by_digest: dict[str, ConfirmedImage] = {}
    for image in images:
        earlier = by_digest.setdefault(image.sha256, image)
        if not same_label(earlier.label, image.label):
            raise DatasetError(
                f"{earlier.filename} and {image.filename} are the same image with different labels. Remove one of them."
            )
    if not by_digest:
        raise DatasetError("There are no images with confirmed labels: nothing to add.")
    return list(by_digest.values())


def _check_labels(
    images: Sequence[ConfirmedImage], dataset: Dataset, options: DataOptions, *, allow_new_classes: bool
) -> None:
    """Refuses labels of another kind than those of the dataset, and unknown classes."""
    first = labels.BOX_LABEL[0] if labels.has_boxes(dataset.label_features) else dataset.label_features[0]
    others = [image.filename for image in images if first not in image.label]
    if others:
        raise DatasetError(
            f"The dataset has {labels.noun(dataset.label_features)}, and {listed(others, _MOST_SHOWN)} have labels of "
            "another kind."
        )
    if not labels.has_sets(dataset.label_features) and first == features.CLASS_TEXT:
        unclear = [image.filename for image in images if len(image.label[features.CLASS_TEXT]) != 1]
        if unclear:
            raise DatasetError(f"Not exactly one class: {listed(unclear, _MOST_SHOWN)}.")
    outside = [
        image.filename
        for image in images
        if any(not 0.0 <= float(side) <= 1.0 for key in features.BOX_CORNERS for side in image.label.get(key, ()))
    ]
    if outside:
        raise DatasetError(f"A box exceeds its image: {listed(outside, _MOST_SHOWN)}. Correct its corners.")
    used = {name: image.filename for image in images for name in labels.class_names(image.label.items())}
    unknown = sorted(used.keys() - set(dataset.classes))
    if unknown and (not allow_new_classes or options.classes is not None):
        advice = "add it to data.classes" if options.classes is not None else "allow new classes (--new-classes)"
        raise DatasetError(
            f"{listed(unknown, _MOST_SHOWN)} (of {used[unknown[0]]}): not a class of the dataset, which has "
            f"{listed(dataset.classes, _MOST_SHOWN)}. Correct the label, or {advice}."
        )


def _new_images(
    images: Sequence[ConfirmedImage], dataset: Dataset, options: ExampleGenOptions
) -> tuple[list[ConfirmedImage], list[str]]:
    """Separates images that are not in the dataset from those that are."""
    sizes = {len(image.encoded) for image in images}
    candidates = [entry for entry in dataset.entries if entry.size in sizes]
    by_digest = {image.sha256: image for image in images}
    known: dict[str, str] = {}
    for candidate in layouts.get(dataset.layout).read(dataset.root, candidates, options):
        image = by_digest.get(hashlib.sha256(candidate.encoded).hexdigest())
        if image is None or candidate.problem:
            continue
        # Masks and boxes are not compared: two people never draw the same.
        names = candidate.label.get(features.CLASS_TEXT)
        if names is not None and sorted(map(str, names)) != sorted(map(str, image.label[features.CLASS_TEXT])):
            raise DatasetError(
                f"{image.filename} is {candidate.filename} of the dataset, with another label. To correct a label of "
                "the dataset, use data.corrections."
            )
        known[image.sha256] = image.filename
    return [image for image in images if image.sha256 not in known], sorted(known.values())


# === Writing ===


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """Creates a hidden folder beside the spans; removes what is left of it."""
    staged = root / f".labelled-{os.getpid()}-{os.urandom(4).hex()}"
    staged.mkdir()
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write_folder(
    staged: Path, images: Sequence[ConfirmedImage], dataset: Dataset, options: ExampleGenOptions, previous: str
) -> None:
    has_masks = labels.has_class_ids(dataset.label_features)
    rows, origins = [], {}
    (staged / labelled_span.IMAGES_FOLDER).mkdir()
    if has_masks:
        (staged / labelled_span.MASKS_FOLDER).mkdir()
        if (content := labelled_span.class_file(previous)) is not None:
            _write(staged / class_list.CLASSES_FILE, content)
    taken: set[str] = set()
    for image in images:
        name = file_name(image.filename, image.encoded, image.sha256, taken)
        path = f"{labelled_span.IMAGES_FOLDER}/{name}"
        _write(staged / path, image.encoded)
        width, height, orientation = upright_size(image.filename, image.encoded)
        label = image.label
        if has_masks:
            _refuse_stored(image, orientation, options.data.mask_orientation, "mask_orientation")
            mask = f"{labelled_span.MASKS_FOLDER}/{name.rpartition('.')[0]}.png"
            _write(staged / mask, labelled_span.encode_mask(mask_ids(label), options.mask_encoding()))
            label = {features.MASK_ENCODED: [mask]}
        elif labels.has_boxes(dataset.label_features):
            _refuse_stored(image, orientation, options.data.box_orientation, "box_orientation")
        rows.append(Row(path, label, width, height, image.split))
        origins[path] = ImageOrigin(
            source=image.source, request_id=image.request_id, confirmed_by=image.confirmed_by, sha256=image.sha256
        )
    _write(staged / labelled_span.MANIFEST_FILE, labelled_span.manifest(rows, dataset.label_features).encode("utf-8"))
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    provenance = Provenance(created=created, origins=origins)
    _write(staged / Provenance.FILE, provenance.model_dump_json(indent=2).encode())


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    locations.sync(str(path))


def _refuse_stored(image: ConfirmedImage, orientation: int, setting: str, key: str) -> None:
    if setting == "stored" and orientation != 1:
        raise DatasetError(
            f'{image.filename} is rotated by its EXIF orientation, and data.{key} = "stored" would rotate its label '
            "again. Save the image upright."
        )


def _publish(staged: Path, pattern: str, root: Path, today: datetime.date) -> tuple[int, Path]:
    """Renames the folder to that of the next span; another process may take the same number at the same time."""
    for _ in range(_MOST_ATTEMPTS):
        span = spans.next_span(pattern, today)
        path = root / span.path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A rename replaces an empty folder, and fails for one with files.
            staged.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            raise
        locations.sync(str(path.parent))
        return span.number, path
    raise DatasetError(f"{pattern}: other processes write spans all the time; nothing was written. Try again.")


# === Verifying ===


def _verify(
    staged: Path,
    images: Sequence[ConfirmedImage],
    dataset: Dataset,
    data_options: DataOptions,
    options: ExampleGenOptions,
) -> None:
    """Reads the folder as ImageExampleGen does, and compares the labels with those that were given."""
    listing = list_folder(str(staged), data_options)
    problems = [f"{file.path}: {file.reason}" for file in listing.refused]
    if listing.label_features != dataset.label_features:
        problems.append(f"read as {labels.noun(listing.label_features)}")
    origins = Provenance.read(str(staged)).origins
    by_path = {path: image for path, image in zip(origins, images, strict=True)}
    candidates = list(layouts.get("manifest").read(str(staged), listing.entries, options))
    contents = [
        UnusableImageError(candidate.problem) if candidate.problem else candidate.encoded for candidate in candidates
    ]
    examined = image_file.examine_all(contents, options.data, options.window or FULL_WINDOW)
    for candidate, result in zip(candidates, examined, strict=True):
        image = by_path[candidate.filename]
        try:
            if isinstance(result.result, UnusableImageError):
                raise result.result
            checked = raw_examples.check_label(candidate.label, result.result, options)
        except UnusableImageError as error:
            problems.append(f"{image.filename}: {error}")
            continue
        if reason := _difference(image.label, checked.label, checked.corrections):
            problems.append(f"{image.filename}: {reason}")
    missing = by_path.keys() - {candidate.filename for candidate in candidates}
    problems += [f"{by_path[path].filename}: not read" for path in sorted(missing)] if not listing.refused else []
    if problems:
        shown = "".join(f"\n  {files.readable(problem)}" for problem in problems[:_MOST_SHOWN])
        more = f"\n  and {len(problems) - _MOST_SHOWN:,} more" if len(problems) > _MOST_SHOWN else ""
        raise DatasetError(f"{len(problems):,} images or labels cannot be used; nothing was written.{shown}{more}")


def _difference(given: Label, read: Label, corrections: Sequence[str]) -> str:
    """Returns how a label that was read differs from the one that was given; empty if they are equal."""
    if features.MASK_ENCODED in given:
        return "" if np.array_equal(mask_ids(given), mask_ids(read)) else "its mask would be read with other classes"
    if features.BOX_CLASSES in given:
        return _difference_of_boxes(given, read, corrections)
    names = (sorted(map(str, label.get(features.CLASS_TEXT, ()))) for label in (given, read))
    first, second = names
    return "" if first == second else f"its label {listed(first, 3)} would be read as {listed(second, 3)}"


def _difference_of_boxes(given: Label, read: Label, corrections: Sequence[str]) -> str:
    # Some corrections only name what is unusual, such as one box with two classes, and change none.
    explanation = f"; {corrections[0]}" if corrections else ""
    if sorted(map(str, given[features.BOX_CLASSES])) != sorted(map(str, read[features.BOX_CLASSES])):
        counts = (len(label[features.BOX_CLASSES]) for label in (given, read))
        return "{} boxes would be read as {}; correct them".format(*counts) + explanation
    first, second = (np.sort(np.array([label[key] for key in features.BOX_CORNERS], float)) for label in (given, read))
    near = np.allclose(first, second, atol=_COORDINATE_TOLERANCE)
    return "" if near else f"its boxes would be read as others; correct them{explanation}"
