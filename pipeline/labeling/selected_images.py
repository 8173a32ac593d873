"""Selects images for labelling and writes them with their proposals, for a person and for labelling programs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from components.image_example_gen import image_file, labels
from components.image_example_gen.dataset import Dataset
from components.image_example_gen.errors import DatasetError
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.execution.dataset import example_gen_options
from pipeline.labeling import annotated_images, formats, labelled_data, predictors, selection
from pipeline.labeling.candidates import Candidate, judge
from pipeline.labeling.formats import ProposedImage
from pipeline.labeling.image_files import file_name, upright_size
from pipeline.labeling.predictors import Predictor
from pipeline.labeling.selection import Choice, Selection
from trainer_module import tasks
from trainer_module.model_input import FULL_WINDOW

IMAGES_FOLDER = "images"


class SelectedImages(NamedTuple):
    """The result of a selection.

    Attributes:
      images: The selected images, the most useful first.
      files: Names of the written files beside the folder of the images.
      selection: Why others were skipped.
      candidates: Number of usable images among which was chosen.
      labelled: Number of images that have labels already.
      unusable: Names of files that are not images, and why.
    """

    images: tuple[ProposedImage, ...]
    files: tuple[str, ...]
    selection: Selection
    candidates: int
    labelled: int
    unusable: tuple[tuple[str, str], ...]


def select(
    config: PipelineConfig,
    read_candidates: Callable[[], Iterator[Candidate]],
    predictor: Predictor,
    num: int,
    output_dir: Path,
    *,
    novel_share: float,
    on_step: Callable[[str], None] = lambda step: None,
) -> SelectedImages:
    """Selects images and writes them.

    Args:
      config: Names the dataset and the task.
      read_candidates: Reads all candidates; called twice, so that memory does not hold their files.
      predictor: The model.
      num: Number of images.
      output_dir: A folder that does not exist or is empty.
      novel_share: Largest share of novel images.
      on_step: Called with what is done next, in words.

    Raises:
      DatasetError: If the dataset cannot be read, or if there is no candidate to choose.
      ConfigError: If the folder is not empty, or if the model does not fit the dataset.
    """
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ConfigError(f"--output-dir: {output_dir} is not an empty folder. Choose another one.")
    labeling = tasks.get(config.task.name).labeling
    on_step("reading the dataset")
    dataset = labelled_data.dataset_of(config)
    _refuse_other_classes(dataset, predictor)
    labelled = labelled_data.read(config, dataset, predictor)
    on_step("reading the candidates")
    options = example_gen_options(config, dataset)
    judged = judge(read_candidates(), predictor, labeling, options.data, options.window or FULL_WINDOW)
    on_step(f"choosing among {len(judged.images):,} images")
    chosen = selection.select(
        judged.images,
        judged.uncertainty,
        labelled,
        num,
        novel_share=novel_share,
        max_bits=options.data.near_duplicate_distance,
    )
    if not chosen.choices:
        raise DatasetError(
            f"None of {len(judged.images):,} images can be chosen: {chosen.known:,} are in the dataset already, "
            f"{chosen.repeated:,} are repeated, and {len(judged.unusable):,} files are not usable images."
        )
    order = {judged.images.sha256[choice.position]: choice for choice in chosen.choices}
    files = _files(read_candidates(), order)
    prepared = (image_file.prepare(candidate.encoded, options.data).encoded for _, candidate in files)
    proposals = list(predictors.proposals(predictor, labeling, prepared, dataset.classes))
    (output_dir / IMAGES_FOLDER).mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    images = []
    for (digest, candidate), proposal in zip(files, proposals, strict=True):
        path = f"{IMAGES_FOLDER}/{file_name(candidate.filename, candidate.encoded, digest, taken)}"
        (output_dir / path).write_bytes(candidate.encoded)
        width, height, _ = upright_size(candidate.filename, candidate.encoded)
        images.append(
            ProposedImage(
                path,
                width,
                height,
                proposal,
                float(judged.uncertainty[order[digest].position]),
                order[digest].novelty,
                order[digest].reason,
                candidate.request_id,
                candidate.source,
            )
        )
    project = annotated_images.project_of(dataset, model=predictor.description)
    formats.export(output_dir, images, project)
    return SelectedImages(
        tuple(images), tuple(formats.files()), chosen, len(judged.images), len(labelled), judged.unusable
    )


def _refuse_other_classes(dataset: Dataset, predictor: Predictor) -> None:
    """Refuses a model whose class ids mean other classes than those of the dataset."""
    if labels.has_class_ids(dataset.label_features) and predictor.classes not in (None, dataset.classes):
        raise ConfigError(
            f"{predictor.description} has other classes than the masks of the dataset. Run the pipeline to train one "
            "that fits."
        )


def _files(candidates: Iterator[Candidate], order: dict[str, Choice]) -> list[tuple[str, Candidate]]:
    """Reads the chosen files again, in the order of the choices; a file that is gone meanwhile is skipped."""
    by_digest: dict[str, Candidate] = {}
    for candidate in candidates:
        digest = hashlib.sha256(candidate.encoded).hexdigest()
        if digest in order and digest not in by_digest:
            by_digest[digest] = candidate
            if len(by_digest) == len(order):
                break
    return [(digest, by_digest[digest]) for digest in order if digest in by_digest]
