"""Annotations of people → images with confirmed labels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from components.image_example_gen import labels
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.layouts._boxes import ImageIndex
from components.image_example_gen.layouts.label_studio import find_image
from pipeline.labeling import formats
from pipeline.labeling.confirmed import ConfirmedImage
from pipeline.labeling.formats import LabelProject, table
from trainer_module.error_text import did_you_mean

_IMAGE_FOLDERS = ("", "images")
# Names of the class of pixels that are not labelled.
_BACKGROUNDS = ("background", "_background_", "unlabelled", "unlabeled", "void", "other")


class AnnotatedImages(NamedTuple):
    """The content of a file with annotations, with the images.

    Attributes:
      images: Those with a confirmed label.
      skipped: Names of the others, and why they are not used.
    """

    images: tuple[ConfirmedImage, ...]
    skipped: tuple[tuple[str, str], ...]


def project_of(
    dataset: Dataset, *, fill_class: str | None = None, fills_ignored: bool = False, model: str = ""
) -> LabelProject:
    """Describes what is labelled.

    Args:
      dataset: The dataset that grows.
      fill_class: Class of the pixels of a mask that no region covers. If absent, the class that is named like a
        background, or else the ignored id.
      fills_ignored: Whether such pixels get the ignored id, whatever the classes are called.
      model: The model of the proposals.

    Raises:
      DatasetError: If the dataset has no such class, or no masks.
    """
    has_masks = labels.has_class_ids(dataset.label_features)
    if (fill_class is not None or fills_ignored) and not has_masks:
        option = "--fill-class" if fill_class is not None else "--fill-ignored"
        raise DatasetError(f"{option} requires masks; the dataset has {labels.noun(dataset.label_features)}.")
    if fill_class is not None and fills_ignored:
        raise DatasetError("Give --fill-class or --fill-ignored, not both.")
    if fills_ignored and dataset.ignore_id is None:
        raise DatasetError("--fill-ignored requires data.ignore_id.")
    if fill_class is not None and fill_class not in dataset.classes:
        hint = did_you_mean(fill_class, dataset.classes) or f". Classes: {', '.join(dataset.classes)}."
        raise DatasetError(f"--fill-class: unknown class `{fill_class}`{hint}")
    backgrounds = [name for name in dataset.classes if name.lower() in _BACKGROUNDS]
    name = fill_class or (backgrounds[0] if backgrounds else None)
    fill_id = dataset.classes.index(name) if name is not None and not fills_ignored else dataset.ignore_id
    return LabelProject(
        dataset.label_features,
        dataset.classes,
        fill_id if has_masks else None,
        model,
        dataset.colors if has_masks else (),
    )


def read(file: Path, images_dir: Path, project: LabelProject) -> AnnotatedImages:
    """Reads annotations, and the images that they name.

    Args:
      file: From a labelling program, or the table of a selection.
      images_dir: Folder of the images; those of a selection are in its subfolder `images`.
      project: What is labelled.

    Raises:
      DatasetError: If the file cannot be read.
    """
    entry = formats.of_file(file, project)
    annotations = entry.read(file, project)
    index, origins = ImageIndex(str(images_dir)), table.origins(images_dir)
    images, skipped = list[ConfirmedImage](), list(annotations.skipped)
    for annotated in annotations.images:
        image_file = find_image(index, annotated.name, _IMAGE_FOLDERS)
        if image_file is None or image_file.problem:
            reason = image_file.problem if image_file is not None else index.why_missing(annotated.name)
            skipped.append((annotated.name, f"{reason} in {images_dir}"))
            continue
        request_id, source = origins.get(image_file.path, ("", ""))
        images.append(
            ConfirmedImage(
                image_file.path,
                (images_dir / image_file.path).read_bytes(),
                annotated.label,
                confirmed_by=entry.name,
                source=source or str(images_dir / image_file.path),
                request_id=request_id,
            )
        )
    return AnnotatedImages(tuple(images), tuple(skipped))
