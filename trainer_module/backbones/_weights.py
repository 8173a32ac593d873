"""Where a backbone's weights come from, and what is said when they are not there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainer_module import backbones, features

if TYPE_CHECKING:
    import keras

IMAGENET_CLASSES = 1000

# Of ImageNet's training pictures, red, green, blue, for pixels in [0, 1]: what torch-style preprocessing
# (`keras.applications.imagenet_utils.preprocess_input`, mode "torch") subtracts and divides by.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class Source(NamedTuple):
    """The published file of a headless network.

    Attributes:
      url: Where it lies.
      md5: Digest of its bytes; None where the publisher states none.
    """

    url: str
    md5: str | None = None


# From normalised pixels, or from an input of its own where that is None, to a model; with the class layer or without.
Network = Callable[["keras.KerasTensor | None", bool], "keras.Model"]


def of_keras(application: Callable[..., keras.Model], image_size: int) -> Network:
    """A network of `keras.applications`, with random weights.

    Args:
      application: For example `keras.applications.ResNet50`.
      image_size: Side of the pictures, pixels.
    """

    def network(x: keras.KerasTensor | None, with_classes: bool) -> keras.Model:
        return application(
            weights=None, include_top=with_classes, input_tensor=x, input_shape=[image_size, image_size, 3]
        )

    return network


def assemble(
    network: Network,
    *,
    image_size: int,
    weights_path: str | None,
    preprocess: Callable[[keras.KerasTensor], keras.KerasTensor],
    feature_channels: int,
) -> keras.Model:
    """Puts preprocessing before a network and loads its weights.

    Args:
      network: Makes the network with random weights.
      image_size: Side of the pictures, pixels.
      weights_path: A `.weights.h5` or `.h5` file, with or without class layer; None leaves random weights.
      preprocess: From float32 pixels, range [0, 255], to what the network was trained with.
      feature_channels: Channels of the last feature map: a matrix from these to 1,000 classes is a class layer.

    Returns:
      Model from float32 pixels [N, s, s, 3] to the last feature map; all its layers lie flat in one graph.

    Raises:
      MissingWeightsError: If the file does not fit.
    """
    import keras

    inputs = keras.Input([image_size, image_size, 3], dtype="float32", name="backbone_pixels")
    flat = network(preprocess(inputs), False)
    model = keras.Model(inputs, flat.output, name=features.BACKBONE_LAYER)
    if weights_path is not None:
        # A file lists layers in their order: it is loaded into the network as it was saved, with nothing before it.
        saved = network(None, _has_class_layer(weights_path, feature_channels))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Keras warns of what it is about to raise
                saved.load_weights(weights_path)
        except (ValueError, KeyError, OSError) as error:
            raise backbones.MissingWeightsError(
                f"{weights_path} does not hold weights of this network: {error}"
            ) from error
        model.set_weights(saved.get_weights()[: len(model.weights)])
    return model


def path_of(weights: str, source: Source) -> str | None:
    """Turns what the configuration says into a file.

    Args:
      weights: "imagenet", "none" or a path.
      source: What "imagenet" downloads, into Keras's own cache.

    Returns:
      An existing file; None for random weights.

    Raises:
      MissingWeightsError: If the file is not there and cannot be downloaded.
    """
    if weights == backbones.RANDOM:
        return None
    return _download(source) if weights == backbones.IMAGENET else existing_file(weights)


def existing_file(path: str) -> str:
    """The path, with ~ expanded.

    Raises:
      MissingWeightsError: If there is no such file, or its name tells no format that Keras can load.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        raise backbones.MissingWeightsError(
            f"There is no weights file {path!r}. model.weights is the path of a `.weights.h5` or `.h5` file, "
            f'"{backbones.IMAGENET}" or "{backbones.RANDOM}".'
        )
    if found.suffix != ".h5":
        raise backbones.MissingWeightsError(f"{path!r} must end in `.weights.h5` (Keras 3) or `.h5` (before).")
    return str(found)


def _download(source: Source) -> str:
    import keras

    name = source.url.rpartition("/")[2]
    try:
        path: str = keras.utils.get_file(name, source.url, cache_subdir="models", file_hash=source.md5)
    except Exception as error:  # Keras raises a bare Exception for a failed download
        raise backbones.MissingWeightsError(
            f"The ImageNet weights could not be downloaded ({error}). Fetch {source.url} on a machine with a network, "
            f'copy it here and name it: model.weights = "/path/to/{name}".'
        ) from error
    return path


def _has_class_layer(path: str, feature_channels: int) -> bool:
    import h5py

    found = []

    def look(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(item.shape == (feature_channels, IMAGENET_CLASSES))

    with h5py.File(path, "r") as file:
        file.visititems(look)
    return any(found)
