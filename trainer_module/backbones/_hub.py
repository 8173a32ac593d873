"""Handles of TensorFlow Hub and Kaggle Models → a directory with a SavedModel, from a cache or a download.

tensorflow_hub 0.15, which TFX installs, was tried: it cannot be imported, because setuptools does not contain
pkg_resources any more. Its cache is used, and that of kagglehub, so that a model that either has downloaded is found.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

from trainer_module.backbones import MissingWeightsError

MODEL_FILE = "saved_model.pb"
_TIMEOUT_S = 60

# https://www.kaggle.com/models/google/mobilenet-v2/TensorFlow2/100-224-feature-vector/2, with or without the words
# `frameworks`, `variations` and `versions`, and kagglehub's form, which begins with the owner.
_KAGGLE = re.compile(
    r"(?:https://(?:www\.)?kaggle\.com/models/)?([\w-]+)/([\w.-]+)/(?:frameworks/)?(tensorFlow2|TensorFlow2)/"
    r"(?:variations/)?([\w.-]+)/(?:versions/)?(\d+)"
)
_TFHUB = re.compile(r"https://tfhub\.dev/[\w./-]+/\d+")


class _Source(NamedTuple):
    """URL of the archive of a handle, and the folder where it is unpacked."""

    url: str
    directory: Path


def is_handle(weights: str) -> bool:
    """Whether this names a model on TensorFlow Hub or Kaggle, and not a directory."""
    return _source(weights) is not None and not Path(weights).expanduser().is_dir()


def directory(handle: str) -> Path:
    """Returns the directory of a handle's SavedModel; downloads it unless it is in the cache.

    Args:
      handle: See `is_handle`.

    Raises:
      MissingWeightsError: If the download fails.
    """
    source = _source(handle)
    if source is None:
        raise ValueError(f"{handle!r} is not a handle.")
    if not (source.directory / MODEL_FILE).is_file():
        try:
            _download(source)
        except (OSError, tarfile.TarError) as error:
            raise MissingWeightsError(
                f"The model {handle!r} could not be downloaded ({error}). Download and unpack {source.url} on another "
                f"machine, copy the directory with {MODEL_FILE} to this machine, and set model.weights to "
                f"its path."
            ) from error
    return source.directory


def _source(handle: str) -> _Source | None:
    if match := _KAGGLE.fullmatch(handle):
        owner, model, framework, variation, version = match.groups()
        name = f"{owner}/{model}/{framework[:1].lower()}{framework[1:]}/{variation}/{version}"
        cache = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
        return _Source(f"https://www.kaggle.com/api/v1/models/{name}/download", cache / "models" / name)
    if _TFHUB.fullmatch(handle):
        cache = Path(os.environ.get("TFHUB_CACHE_DIR") or Path(tempfile.gettempdir()) / "tfhub_modules")
        name = hashlib.sha1(handle.encode(), usedforsecurity=False).hexdigest()
        return _Source(f"{handle}?tf-hub-format=compressed", cache / name)
    return None


def _download(source: _Source) -> None:
    """Unpacks next to the directory first, so that an interrupted download leaves no part of a model in it."""
    source.directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=source.directory.parent) as partial:
        model = Path(partial, "model")
        with (
            urllib.request.urlopen(source.url, timeout=_TIMEOUT_S) as response,
            tarfile.open(fileobj=response, mode="r|gz") as archive,
        ):
            archive.extractall(model, filter="data")
        if not (model / MODEL_FILE).is_file():
            raise OSError(f"the archive contains no {MODEL_FILE}")
        model.rename(source.directory)
