"""The images that have labels already: their embeddings, kept for the next selection."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from components.image_example_gen import layouts, spans
from components.image_example_gen.dataset import Dataset
from pipeline.config.sections import PipelineConfig
from pipeline.execution.dataset import all_spans, example_gen_options, prepare
from pipeline.labeling.candidates import Candidate, embed
from pipeline.labeling.predictors import EMBEDDING, Predictor
from pipeline.labeling.selection import ImageSet
from trainer_module import features
from trainer_module.model_input import FULL_WINDOW

_FOLDER = "select"


def dataset_of(config: PipelineConfig) -> Dataset:
    """Lists all images with labels: those of all spans, whichever of them a run reads.

    Raises:
      DatasetError: If the dataset cannot be trained on.
    """
    if spans.has_spans(config.data_location):
        return all_spans(config)
    return prepare(config)


def read(config: PipelineConfig, dataset: Dataset, predictor: Predictor) -> ImageSet:
    """Embeds all images with labels, or reads the embeddings that an earlier call stored for the same images and model.

    Args:
      config: The whole configuration.
      dataset: From `dataset_of`.
      predictor: The model.
    """
    key = hashlib.sha256(f"{predictor.key}\0{dataset.fingerprint}".encode()).hexdigest()[:16]
    folder = config.run_dir / _FOLDER
    path = folder / f"embeddings-{key}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError):  # absent or damaged: computed again
        with np.load(path, allow_pickle=False) as stored:
            return ImageSet(stored["embeddings"], tuple(stored["sha256"].tolist()), stored["hashes"])
    images = _embed(config, dataset, predictor)
    _store(path, images)
    return images


def _embed(config: PipelineConfig, dataset: Dataset, predictor: Predictor) -> ImageSet:
    options = example_gen_options(config, dataset)

    def candidates() -> Iterator[Candidate]:
        for candidate in layouts.get(dataset.layout).read(dataset.root, dataset.entries, options):
            if not candidate.problem:
                yield Candidate(candidate.filename, candidate.encoded)

    def compute(batch: Sequence[bytes]) -> np.ndarray:
        return predictor.outputs({features.EMBED: (EMBEDDING,)}, batch)[EMBEDDING]

    return embed(candidates(), compute, options.data, options.window or FULL_WINDOW, [])


def _store(path: Path, images: ImageSet) -> None:
    """Replaces what is stored for another model or dataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, embeddings=images.embeddings, sha256=np.array(images.sha256), hashes=images.hashes)
    temporary.replace(path)
    for other in path.parent.glob("embeddings-*.npz"):
        if other != path:
            other.unlink(missing_ok=True)
