"""Conformance of every backbone in the folder: its record, and faults that it must reject."""

import dataclasses
import functools
import sys

import keras
import numpy as np
import pytest

from trainer_module import backbones
from trainer_module.backbones import (
    Directory,
    Download,
    Scaling,
    Standardization,
    Weights,
)


@pytest.fixture(scope="module", autouse=True)
def kernels_of_zeros():
    """No check reads a kernel, and drawing the random numbers of a large network takes as long as building it."""
    with pytest.MonkeyPatch.context() as patch:
        initializer = keras.initializers.VarianceScaling
        patch.setattr(initializer, "__call__", lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype))
        yield


@functools.lru_cache(maxsize=4)
def _built(record, size, weights, is_whole):
    build = record.build_classifier if is_whole else record.build
    return build(image_size=size, weights=weights)


def built(record, size, weights="none", is_whole=False):
    """The network of a record, or with its classifier; records that differ only in their description share it."""
    descriptions = {"classifier_layer": None, "num_classes": 0, "published_input": None}
    described = tuple(dataclasses.replace(each, **descriptions) for each in record.weights)
    plain = dataclasses.replace(record, weights=described, feature_channels=None, skip_strides=())
    return _built(plain, size, weights, is_whole)


def random_images(size):
    return np.random.default_rng(7).integers(0, 256, (3, size, size, 3), dtype=np.uint8)


# --- Checks of one record ---------------------------------------------------------------------------------------
# Functions, so that the faults below can be given to the same checks as the backbones of the folder.


def check_weights(record):
    """The description of every set of weights: source, format and accuracy."""
    assert len({weights.preprocessing for weights in record.weights}) == 1  # it is that of a user's own file, too
    for weights in record.weights:
        from_directory = isinstance(weights.source, Directory)
        assert from_directory == (record.network is None) == (not record.trainable)
        assert from_directory or (weights.licence and weights.classifier_layer and weights.num_classes > 1)
        if isinstance(weights.source, Download):
            assert weights.source.url.startswith("https://") and weights.source.url.endswith(".h5")
        assert weights.image_size is None or weights.image_size >= record.smallest_image
        accuracies = [top1 for top1 in (weights.published_top1, weights.measured_top1) if top1 is not None]
        assert all(0.0 < top1 < 1.0 for top1 in accuracies)


def check_maps(record, model):
    """The last feature map and the skips have the promised sizes; a directory decides about its own channels."""
    size = model.input.shape[1]
    assert model.output.shape[1:3] == (size // 32, size // 32)
    assert record.feature_channels == (model.output.shape[-1] if record.network else None)
    skips = record.skips(model)
    assert [skip.shape[1:3] for skip in skips] == [(size // stride, size // stride) for stride in record.skip_strides]


def check_preprocessing(record, model):
    """The first layer that computes receives the values that the weights were trained with."""
    pixels = random_images(model.input.shape[1]).astype(np.float32)
    if isinstance(record.network, str):
        expected = keras_input(record.network, pixels.shape[1])
    else:
        published = record.weights[0].published_input
        assert published, (
            "published_input is required: Keras does not contain this network, so nothing else shows errors"
        )
        black, white = np.array(published[0]), np.array(published[1])
        is_bgr = getattr(record.weights[0].preprocessing, "channels", "rgb") == "bgr"
        expected = black + (pixels[..., ::-1] if is_bgr else pixels) / 255.0 * (white - black)
    np.testing.assert_allclose(first_computed(model, pixels), expected, atol=2e-5, rtol=1e-4)


def first_computed(model, pixels):
    """Input of the first layer that pads, has a kernel or is not Keras's own."""
    first = next(
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.ZeroPadding2D)
        or any(len(weight.shape) > 1 for weight in layer.weights)
        or not type(layer).__module__.startswith("keras.")
    )
    return np.asarray(keras.Model(model.input, first.input)(pixels))


@functools.cache
def keras_input(constructor, size):
    """The same of Keras's own network, after the `preprocess_input` of its module."""
    build = getattr(keras.applications, constructor)
    network = build(weights=None, include_top=False, input_shape=[size, size, 3])
    pixels = random_images(size).astype(np.float32)
    if any(isinstance(layer, keras.layers.Normalization) and layer.weights for layer in network.layers):
        # Only Keras's own download sets this layer, to the same as its mode "torch".
        return keras.applications.imagenet_utils.preprocess_input(pixels, mode="torch")
    return first_computed(network, sys.modules[build.__module__].preprocess_input(pixels))


def check_classifier(record, model):
    """The whole network ends in the stated layer, and begins with the layers of the network without classifier."""
    if record.network is None:
        assert {weights.classifier_layer for weights in record.weights} == {None}
        return
    whole = built(record, model.input.shape[1], is_whole=True)
    last = [layer for layer in whole.layers if layer.weights][-1]
    assert {weights.classifier_layer for weights in record.weights} == {last.name}
    assert {(weights.num_classes,) for weights in record.weights} == {whole.output.shape[1:]}
    shapes = [weight.shape for weight in model.weights]
    assert shapes == [weight.shape for weight in whole.weights][: len(shapes)]


CHECKS = (check_maps, check_preprocessing, check_classifier)


# --- Every backbone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", backbones.names())
def test_every_set_of_weights_is_described(name):
    check_weights(backbones.get(name))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", backbones.names_of_families())
def test_the_network_is_the_one_of_the_record(check, name, vector_folder, size_for):
    record = backbones.get(name)
    check(record, built(record, size_for(record), "none" if record.trainable else vector_folder))


@pytest.mark.parametrize("name", sorted(set(backbones.names()) - set(backbones.names_of_families())))
def test_a_larger_form_has_the_shapes_and_the_preprocessing_of_its_record(name, size_for):
    # Over 2 s for EfficientNet-B7, which has 813 layers.
    record = backbones.get(name)
    smallest = backbones.get(record.larger_form_of)
    assert smallest.larger_form_of is None
    assert {weights.preprocessing for weights in record.weights} == {
        weights.preprocessing for weights in smallest.weights
    }
    check_maps(record, built(record, size_for(record)))


# --- Faults that the checks reject ------------------------------------------------------------------------------

CAFFE_MEAN = backbones.get("resnet50").weights[0].preprocessing.mean


def with_fault(name, **fields):
    """A backbone of the folder with other fields; those of `Weights` change in all its sets."""
    record = backbones.get(name)
    of_weights = {key: fields.pop(key) for key in list(fields) if key in Weights.__dataclass_fields__}
    weights = tuple(dataclasses.replace(weights, **of_weights) for weights in record.weights)
    return dataclasses.replace(record, weights=weights, **fields)


def stem_of_stride_4(pixels, *, image_size, include_top):
    """A network of the right output, but without a map at stride 2."""
    x = pixels
    for filters, stride in ((8, 4), (8, 2), (8, 2), (1280, 2)):
        x = keras.layers.Conv2D(filters, 3, stride, "same", activation="relu")(x)
    return keras.Model(keras.utils.get_source_inputs(pixels), x)


@pytest.mark.parametrize(
    ("check", "name", "fault"),
    [
        (check_preprocessing, "mobilenet_v2", {"preprocessing": Scaling(1 / 255)}),
        (check_preprocessing, "mobilenet_v2", {"preprocessing": Scaling(1.0)}),
        (check_preprocessing, "mobilenet_v2", {"preprocessing": Scaling(1 / 128, offset=-1.0)}),
        (check_maps, "mobilenet_v2", {"feature_channels": 1024}),
        (check_maps, "mobilenet_v2", {"feature_channels": None}),
        (check_maps, "mobilenet_v2", {"skip_strides": (2, 4, 8, 12)}),
        (check_classifier, "mobilenet_v2", {"classifier_layer": "fc1000"}),
        (check_classifier, "mobilenet_v2", {"num_classes": 1001}),
        (check_preprocessing, "resnet50", {"preprocessing": Standardization(CAFFE_MEAN, white=255.0)}),
        (check_preprocessing, "resnet50", {"preprocessing": Scaling(1 / 127.5, offset=-1.0)}),
        (check_preprocessing, "efficientnet_b0", {"has_preprocessing": False}),
        (check_preprocessing, "efficientnet_b0", {"preprocessing": Standardization(CAFFE_MEAN, white=255.0)}),
        (check_preprocessing, "efficientnet_lite0", {"preprocessing": Scaling(1 / 255)}),
        (check_preprocessing, "efficientnet_lite0", {"published_input": None}),
        (check_maps, "efficientnet_lite0", {"network": stem_of_stride_4}),
    ],
)
def test_a_wrong_record_fails_the_check(check, name, fault, size_for):
    right, wrong = backbones.get(name), with_fault(name, **fault)
    with pytest.raises((AssertionError, ValueError)):
        check(wrong, built(wrong, size_for(wrong)))
    check(right, built(right, size_for(right)))  # it is the fault that the check rejects


@pytest.mark.parametrize(
    "fault",
    [
        {"licence": ""},
        {"classifier_layer": None},
        {"image_size": 16},
        {"published_top1": 71.8},
        {"source": Download("http://example.org/weights.bin", digest=None)},
        {"trainable": False},
        {"network": None},
    ],
)
def test_an_incomplete_record_fails_the_check(fault):
    with pytest.raises(AssertionError):
        check_weights(with_fault("mobilenet_v2", **fault))
