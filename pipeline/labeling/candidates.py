"""Images without labels, from a request log or a folder: their embeddings, and how uncertain a model is about them."""

from __future__ import annotations

import collections
import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.image_example_gen import files, image_file
from components.image_example_gen.errors import DatasetError, UnusableImageError
from components.image_example_gen.layouts._folder import is_image_name
from components.image_example_gen.options import DataOptions
from pipeline.labeling.predictors import EMBEDDING, Predictor
from pipeline.labeling.selection import ImageSet
from serving.request_log import request_ids
from serving.request_log.files import TFRECORD, published
from serving.request_log.reader import LoggedRequest, LogReader
from trainer_module import features
from trainer_module.embedding import Embed, embed_all
from trainer_module.model_input import FULL_WINDOW, Window
from trainer_module.tasks import Labeling

_BATCH_SIZE = 32
REQUEST_LOG = "request log"
NO_HASH = -1


class Candidate(NamedTuple):
    """An image that may be labelled.

    Attributes:
      filename: Its path, or a name for it.
      encoded: Bytes of the file.
      request_id: Of the request that contained it; empty if there is none.
      source: Where it comes from: a path, or the request log.
    """

    filename: str
    encoded: bytes
    request_id: str = ""
    source: str = ""


def source_of(location: str, model: str, *, since: float = 0.0) -> Callable[[], Iterator[Candidate]]:
    """Returns a function that reads all candidates, again every time it is called.

    Args:
      location: The prefix of a request log, or a folder of images.
      model: Of a log: name of the model whose requests are read.
      since: Time of the first request, seconds since 1970.

    Raises:
      DatasetError: If it is neither, or if the log does not contain images for the model.
    """
    path = Path(location)
    if published(path, TFRECORD):
        if next(iter(from_log(path, model, since)), None) is None:
            raise DatasetError(f"The request log {location} contains no images {_why_none(path, model, since)}")
        return lambda: from_log(path, model, since)
    if path.is_dir():
        if next(iter(from_folder(path)), None) is None:
            logs = sorted(entry.name for entry in path.iterdir() if entry.name.endswith(TFRECORD.suffix))
            hint = (
                f" {logs[0]} is a file of a log: give its prefix, {path / logs[0].partition('-')[0]}." if logs else ""
            )
            raise DatasetError(f"{location} contains no images.{hint}")
        return lambda: from_folder(path)
    raise DatasetError(
        f"--from {location}: neither a folder of images nor the prefix of a request log with complete files."
    )


def from_folder(folder: Path) -> Iterator[Candidate]:
    """Reads all images below a folder, by path."""
    root = str(folder.absolute())
    for file in sorted(files.walk(root, "")):
        if is_image_name(file.path) and not file.problem and not file.is_folder:
            with contextlib.suppress(files.UnreadableFileError):  # deleted meanwhile
                yield Candidate(file.path, files.read(root, file.path), source=f"{root}/{file.path}")


def _why_none(prefix: Path, model: str, since: float) -> str:
    names = sorted({record.model for record in LogReader(prefix)})
    if model not in names:
        return f"for the model {model}, only requests to {', '.join(names)}." if names else "that can be read."
    when = " in this time" if since else ""
    return f"for the model {model}{when}. Write it with --request-log-content image, or give a folder."


def from_log(prefix: Path, model: str, since: float = 0.0) -> Iterator[Candidate]:
    """Reads the images that a model was asked about, in the order of their arrival."""
    for _, _, candidate in from_log_records(prefix, model, since):
        yield candidate


def from_log_records(
    prefix: Path, model: str, since: float = 0.0, skip: Collection[Path] = ()
) -> Iterator[tuple[LoggedRequest, int, Candidate]]:
    """Reads the images that a model was asked about, each with its record and its position in that.

    Args:
      prefix: Of the request log, which may contain requests to several models.
      model: Name of the model.
      since: Time of the first request, seconds since 1970.
      skip: Files of requests that are not read.
    """
    for record in LogReader(prefix, since, skip=skip):
        images = record.images if record.model == model and record.signature in _PREDICTIONS else ()
        for index, encoded in enumerate(images or ()):
            image_id = request_ids.of_image(record.request_id, index, len(images or ()))
            digest = hashlib.sha256(encoded).hexdigest()
            yield record, index, Candidate(f"request-{digest[:16]}", encoded, image_id, REQUEST_LOG)


_PREDICTIONS = (features.SERVING_DEFAULT, features.CLASSIFY, *features.EXPLANATIONS, features.EMBED)


class JudgedImages(NamedTuple):
    """All candidates; N is their number.

    Attributes:
      images: Embeddings, digests and perceptual hashes.
      uncertainty: float64 [N], range [0, 1].
      request_ids: Of the requests that contained them.
      unusable: Names of files that are not images, and why.
    """

    images: ImageSet
    uncertainty: np.ndarray
    unusable: tuple[tuple[str, str], ...]


def judge(
    candidates: Iterable[Candidate],
    predictor: Predictor,
    labeling: Labeling,
    options: DataOptions,
    window: Window = FULL_WINDOW,
) -> JudgedImages:
    """Computes embeddings, hashes and uncertainties; memory holds a few images at a time.

    Args:
      candidates: The images.
      predictor: The model.
      labeling: Of the task.
      options: `[data]`.
      window: The values that 16-bit images of the dataset use.
    """
    uncertainties = list[np.ndarray]()
    unusable: list[tuple[str, str]] = []
    wanted = {**labeling.outputs, features.EMBED: (EMBEDDING,)}

    def compute(batch: Sequence[bytes]) -> np.ndarray:
        outputs = predictor.outputs(wanted, batch)
        uncertainties.append(labeling.uncertainty(outputs))
        return outputs[EMBEDDING]

    images = embed(candidates, compute, options, window, unusable)
    return JudgedImages(images, np.concatenate(uncertainties) if uncertainties else np.zeros(0), tuple(unusable))


def embed(
    candidates: Iterable[Candidate],
    compute: Embed,
    options: DataOptions,
    window: Window,
    unusable: list[tuple[str, str]],
) -> ImageSet:
    """Computes embeddings and hashes; memory holds a few images at a time.

    Args:
      candidates: The images.
      compute: Computes the embeddings of a batch.
      options: `[data]`.
      window: The values that 16-bit images of the dataset use.
      unusable: Receives names of files that are not images, and why.
    """
    digests, hashes = list[str](), list[int]()

    def usable() -> Iterator[bytes]:
        for digest, encoded, perceptual_hash in _examined(candidates, options, window, unusable):
            digests.append(digest)
            hashes.append(perceptual_hash)
            yield encoded

    embeddings = embed_all(compute, usable(), _BATCH_SIZE)
    return ImageSet(np.asarray(embeddings, np.float32), tuple(digests), np.array(hashes, np.int64))


def _examined(
    candidates: Iterable[Candidate], options: DataOptions, window: Window, unusable: list[tuple[str, str]]
) -> Iterator[tuple[str, bytes, int]]:
    """Yields usable images: digest of the file, the file as the model reads it, and its perceptual hash."""
    waiting: collections.deque[tuple[str, str]] = collections.deque()

    def contents() -> Iterator[bytes]:
        for candidate in candidates:
            waiting.append((candidate.filename, hashlib.sha256(candidate.encoded).hexdigest()))
            yield candidate.encoded

    for examined in image_file.examine_all(contents(), options, window):
        filename, digest = waiting.popleft()
        if isinstance(examined.result, UnusableImageError):
            unusable.append((filename, str(examined.result)))
            continue
        perceptual_hash = examined.result.perceptual_hash
        yield digest, examined.encoded, NO_HASH if perceptual_hash is None else perceptual_hash
