"""The record of a backbone, and how a network is built from it."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainer_module import features
from trainer_module.backbones._weights import (
    IMAGENET,
    RANDOM,
    Directory,
    Download,
    MissingWeightsError,
    PythonPackage,
    Scaling,
    Standardization,
    Weights,
    existing_file,
)
from trainer_module.model_input import Size, size_of

if TYPE_CHECKING:
    import keras


class Network(Protocol):
    """Builds a network with random weights, from preprocessed pixels or, if None, from an input of its own."""

    def __call__(self, pixels: keras.KerasTensor | None, *, image_size: Size, include_top: bool) -> keras.Model:
        """Ends in the last feature map, or with `include_top` in class probabilities."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pre-trained network without its classifier.

    Attributes:
      weights: All published sets, with the same preprocessing; the first one serves the image sizes that no set was
        trained with.
      network: Name of a constructor in keras.applications, or a function; None if the source of the weights contains
        the network.
      feature_channels: Channels of the last feature map; None if they depend on the source of the weights.
      skip_strides: Strides of the other feature maps that a decoder can use.
      smallest_image: Side of the smallest image that the network takes, pixels.
      trainable: Whether training can change the network. If not, there is no network with random weights either.
      larger_form_of: Name of the smallest backbone that the same function builds from the same blocks. The conformance
        tests use networks of that one only, and check the shapes of this one.
      has_preprocessing: Whether the network begins with layers `Rescaling` to [0, 1] and `Normalization` of its own, as
        the EfficientNets of keras.applications do; their state is set from the record.
    """

    weights: tuple[Weights, ...]
    network: str | Network | None = None
    feature_channels: int | None = None
    skip_strides: tuple[int, ...] = (2, 4, 8, 16)
    smallest_image: int = 32
    trainable: bool = True
    has_preprocessing: bool = False
    larger_form_of: str | None = None

    def weights_for(self, image_size: int | Size) -> Weights:
        """The set that was trained with square images of this size, else the first one."""
        size = size_of(image_size)
        trained = (weights for weights in self.weights if (weights.image_size, weights.image_size) == size)
        return next(trained, self.weights[0])

    def check_weights(self, *, image_size: int | Size, weights: str) -> None:
        """Checks that weights are available, without building the network; downloads them if necessary.

        Args:
          image_size: As in `build`.
          weights: As in `build`.

        Raises:
          MissingWeightsError: If they are not available.
        """
        source = self.weights_for(image_size).source
        if isinstance(source, Directory):
            source.locate(weights)
        elif weights == IMAGENET and isinstance(source, Download):
            source.check()
        elif weights == IMAGENET:
            source.path()
        elif weights != RANDOM:
            existing_file(weights)

    def build(self, *, image_size: int | Size, weights: str) -> keras.Model:
        """Builds the network without its classifier; preprocessing is part of it.

        Args:
          image_size: Side of the images, or height and width, pixels; at least `smallest_image`.
          weights: "imagenet", "none" (random) or the path of a weights file; for a SavedModel its directory or handle.

        Returns:
          Model from float32 pixels [N, h, w, 3], red first, range [0, 255], to the last feature map
          [N, h/32, w/32, feature_channels]. The layers of a constructor or a function lie flat in it.

        Raises:
          MissingWeightsError: If the weights are not available, or belong to another network.
        """
        return self._build(size_of(image_size), weights, include_top=False)

    def build_classifier(self, *, image_size: int | Size, weights: str) -> keras.Model:
        """Builds the whole network, to check weights: from pixels, as in `build`, to probabilities [N, num_classes].

        Raises:
          MissingWeightsError: As `build` does, and if a weights file contains no classifier.
        """
        return self._build(size_of(image_size), weights, include_top=True)

    def skips(self, model: keras.Model) -> list[keras.KerasTensor]:
        """The other feature maps of a network from `build`, [N, h/stride, w/stride, c] in the order of `skip_strides`.

        Each is the last activation at its stride, the result of all computation at this resolution. Layer names are not
        used because Keras numbers many of them per process.

        Raises:
          ValueError: If the network has no activation at one of the strides.
        """
        height, width = model.input.shape[1:3]
        outputs = [layer.output for layer in model.layers if _is_activation(layer)]
        by_size = {output.shape[1:3]: output for output in outputs if len(output.shape) == 4}
        skips = [by_size.get((-(-height // stride), -(-width // stride))) for stride in self.skip_strides]
        if None in skips:
            stride = self.skip_strides[skips.index(None)]
            raise ValueError(
                f"{self.network} has no activation at stride {stride} of images of {height} x {width} pixels."
            )
        return skips

    def _build(self, image_size: Size, weights: str, include_top: bool) -> keras.Model:
        import keras

        record = self.weights_for(image_size)
        inputs = keras.Input([*image_size, 3], dtype="float32", name="backbone_pixels")
        pixels = inputs if self.has_preprocessing else _preprocess(inputs, record.preprocessing)
        if isinstance(record.source, Directory):
            return keras.Model(inputs, record.source.read(weights, pixels), name=features.BACKBONE_LAYER)
        # A missing file is an error before the network is built, which takes seconds.
        path = None
        if weights != RANDOM:
            path = Path(record.source.path() if weights == IMAGENET else existing_file(weights))
        network = self._network(pixels, image_size, include_top)
        model = keras.Model(inputs, network.output, name=features.BACKBONE_LAYER)
        if path is not None and weights == IMAGENET and isinstance(record.source, PythonPackage):
            record.source.read(model, path)
        elif path is not None:
            # A file lists layers in their order: it is loaded into the network as it was saved, without preprocessing.
            has_classifier = include_top or _has_classifier(str(path), record.num_classes)
            saved = self._network(None, image_size, has_classifier)
            _load(saved, str(path))
            model.set_weights(saved.get_weights()[: len(model.weights)])
        if self.has_preprocessing:
            _set_preprocessing(model, record.preprocessing)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                # Stochastic depth would make features differ from step to step even in a frozen network.
                layer.rate = 0.0
        return model

    def _network(self, pixels: keras.KerasTensor | None, image_size: Size, include_top: bool) -> keras.Model:
        import keras

        if self.network is None:
            raise TypeError("A backbone without `network` requires weights whose source is a Directory.")
        if not isinstance(self.network, str):
            return self.network(pixels, image_size=image_size, include_top=include_top)
        constructor = getattr(keras.applications, self.network)
        options: dict[str, Any] = {}
        if "include_preprocessing" in inspect.signature(constructor).parameters:
            options["include_preprocessing"] = False
        shape = [*image_size, 3]
        return constructor(weights=None, include_top=include_top, input_tensor=pixels, input_shape=shape, **options)


def _is_activation(layer: keras.layers.Layer) -> bool:
    from keras import activations, layers

    own = (layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
    return isinstance(layer, own) or getattr(layer, "activation", activations.linear) is not activations.linear


def _preprocess(pixels: keras.KerasTensor, record: Scaling | Standardization) -> keras.KerasTensor:
    """Float32 [N, h, w, 3], red first, range [0, 255], to the values that weights were trained with."""
    import keras

    if isinstance(record, Scaling):
        return keras.layers.Rescaling(record.scale, offset=record.offset, dtype="float32", name="preprocess")(pixels)
    if record.channels == "bgr":
        pixels = keras.ops.flip(pixels, axis=-1)
    mean, variance = record.statistics(white=255.0)
    return keras.layers.Normalization(mean=mean, variance=variance, dtype="float32", name="preprocess")(pixels)


def _set_preprocessing(model: keras.Model, record: Scaling | Standardization) -> None:
    """Sets the state of a network's own normalisation, whatever a file contained.

    The files that Keras publishes for EfficientNet contain standard deviations in place of variances. Keras corrects
    this with one more layer, but only if it downloads the file itself, and random weights contain no statistics
    (https://github.com/tensorflow/tensorflow/issues/49930).
    """
    from keras.layers import Normalization

    if not isinstance(record, Standardization):
        raise TypeError(f"A network with preprocessing of its own requires a Standardization, not {record}.")
    (normalization,) = [layer for layer in model.layers if isinstance(layer, Normalization)]
    mean, variance = record.statistics(white=1.0)
    normalization.adapt_mean.assign(mean)
    normalization.adapt_variance.assign(variance)
    normalization.finalize_state()


def _load(network: keras.Model, path: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns about the error that it then raises
            network.load_weights(path)
    except (ValueError, KeyError, OSError) as error:
        raise MissingWeightsError(f"{path} does not contain weights of this network: {error}") from error


def _has_classifier(path: str, num_classes: int) -> bool:
    """Whether a file contains a tensor with one output per class; feature maps have other numbers of channels."""
    import h5py

    shapes: list[tuple[int, ...]] = []

    def add_shape(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            shapes.append(item.shape)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add_shape)
    except OSError as error:
        raise MissingWeightsError(f"{path} is not an HDF5 file: {error}") from error
    return any(shape[-1:] == (num_classes,) for shape in shapes)
