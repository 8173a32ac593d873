"""Conformance of every backbone in the folder, with random weights: in a network, in a Keras file and exported."""

import dataclasses
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.serving_validator import graph_walk
from trainer_module import backbones, export, features, grad_cam, keras_file
from trainer_module.backbones import Backbone
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions
from trainer_module.precision import to_float32
from trainer_module.session_model import SessionModel
from trainer_module.tasks import classification

SIZE = 32
STATISTICS = PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32))


@pytest.fixture(scope="module", params=backbones.names_of_families())
def name(request):
    return request.param


@pytest.fixture(scope="module")
def record(name):
    return backbones.get(name)


@pytest.fixture(scope="module")
def options(name, record, vector_folder, size_for):
    return transfer_options(backbone=name, weights="none" if record.trainable else vector_folder, size=size_for(record))


@pytest.fixture(scope="module")
def model(options, record):
    keras.utils.set_random_seed(5)
    if record.trainable:
        # Built as with pre-trained weights: a backbone with random weights would not be frozen.
        options = options.model_copy(update={"model": options.model.model_copy(update={"weights": "imagenet"})})
        record = RandomWeights(**vars(record))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "get", lambda _: record)
        model = build_network(options, STATISTICS)
    calibrate(model.get_layer(features.BACKBONE_LAYER))
    return model


class RandomWeights(Backbone):
    """Builds a network with random weights, whatever weights are requested."""

    def build(self, *, image_size, weights):
        """Like a pre-trained network, but random."""
        return super().build(image_size=image_size, weights="none")


def calibrate(backbone):
    """Sets the statistics of batch normalisation, without which random weights let every signal vanish.

    Over many images: statistics of a few would amplify rounding, and a graph would differ from its eager form.
    """
    images = np.random.default_rng(8).integers(0, 256, (64, *backbone.input.shape[1:]), dtype=np.uint8)
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.trainable, layer.momentum = True, 0.0
    backbone(images.astype(np.float32), training=True)
    for layer in norms:
        layer.trainable, layer.momentum = False, 0.99


@pytest.fixture(scope="module")
def backbone(model):
    return model.get_layer(features.BACKBONE_LAYER)


@pytest.fixture(scope="module")
def images(request, size_for):
    size = size_for(request.getfixturevalue("record")) if "record" in request.fixturenames else SIZE
    return np.random.default_rng(7).integers(0, 256, (3, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def maps(backbone, images):
    """Feature maps of the images, at inference."""
    return np.asarray(backbone(images.astype(np.float32), training=False))


def transfer_options(backbone="mobilenet_v2", weights="none", size=SIZE, **sections):
    model = {"name": "transfer", "backbone": backbone, "weights": weights}
    transform = {"image_size": size, "normalization": "backbone"}
    return TrainerOptions(classes=("a", "b", "c"), transform=transform, model=model, **sections)


def test_features_are_finite_and_not_zero(maps):
    assert np.isfinite(maps).all() and np.abs(maps).max() > 0.01


def test_training_mode_does_not_change_the_backbone(backbone, images, maps):
    # The outer model's training=True reaches every layer of the base: none may be random or normalise by the batch.
    before = [np.array(weight) for weight in backbone.non_trainable_weights]
    np.testing.assert_array_equal(backbone(images.astype(np.float32), training=True), maps)
    for old, new in zip(before, backbone.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_only_the_head_can_be_trained(model):
    assert [weight.path.split("/")[0] for weight in model.trainable_weights] == [features.LOGITS_LAYER] * 2


def test_the_keras_file_and_the_session_give_the_same_numbers(record, model, options, images, tmp_path, monkeypatch):
    class NoTransform(tf.Module):
        def __call__(self, raw):
            return {features.LABEL: tf.strings.length(raw[features.CLASS_TEXT])}

    spec = {features.CLASS_TEXT: tf.io.FixedLenFeature([], tf.string)}
    if record.trainable:
        # Tracing a large network takes seconds, and its gradient more: a graph from a directory is the quickest.
        all_signatures = classification.TASK.export.signatures

        def signatures(*args):
            return {features.SERVING_DEFAULT: all_signatures(*args)[features.SERVING_DEFAULT]}

        replaced = dataclasses.replace(classification.TASK.export, signatures=signatures)
        monkeypatch.setattr(classification, "TASK", dataclasses.replace(classification.TASK, export=replaced))
    serving_dir, run_dir = str(tmp_path / "serving"), str(tmp_path / "run")
    export.export(
        model, options, tft_layer=NoTransform(), raw_feature_spec=spec, serving_dir=serving_dir, run_dir=run_dir
    )
    expected = tf.nn.softmax(model(images, training=False)).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3  # the images differ, so that equality is evidence
    again = keras_file.load(os.path.join(run_dir, features.KERAS_FILE))
    np.testing.assert_array_equal(tf.nn.softmax(again(images, training=False)), expected)

    assert graph_walk.not_allowed(graph_walk.read(serving_dir)) == []
    session = SessionModel(serving_dir)
    encoded = [tf.io.encode_png(image).numpy() for image in images]
    # With random weights, unlike trained ones, rounding grows from layer to layer; a wrong export differs by tenths.
    np.testing.assert_allclose(session.run_on("serving_default", encoded)["probabilities"], expected, atol=1e-3)
    if not record.trainable:
        check_the_other_signatures(session, encoded, model)
    session.close()


def check_the_other_signatures(session, encoded, model):
    explained = session.run_on("explain", encoded)["heatmap"]
    assert explained.shape == (3, SIZE, SIZE) and explained.min() >= 0 and explained.max() <= 1
    embedded = session.run_on("embed", encoded)["embedding"]
    assert embedded.shape == (3, model.get_layer(features.POOLED_LAYER).output.shape[-1])


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("small", ["mobilenet_v2", "efficientnet_lite0", "saved_model"])
def test_mixed_precision_ends_in_float32(small, precision, vector_folder, images):
    weights = vector_folder if small == "saved_model" else "none"
    mixed = transfer_options(small, weights, training={"precision": precision})
    model = build_network(mixed, STATISTICS)
    assert model.get_layer(features.POOLED_LAYER).compute_dtype == precision.removeprefix("mixed_")
    logits = model(images, training=False)
    assert logits.dtype == tf.float32 and np.isfinite(logits).all()
    to_float32(model)
    base = model.get_layer(features.BACKBONE_LAYER)
    assert {layer.compute_dtype for layer in [*model.layers, *base.layers]} == {"float32"}
    if small != "saved_model":
        assert base(tf.cast(images, tf.float32), training=False).dtype == tf.float32


def test_a_backbone_with_random_weights_is_trained_from_the_start():
    chosen = transfer_options("mobilenet_v2", "none")
    assert not chosen.model.begins_frozen()
    base = build_network(chosen, STATISTICS).get_layer(features.BACKBONE_LAYER)
    assert all(layer.trainable for layer in base.layers)


def test_statistics_of_random_weights_converge_within_a_few_steps():
    base = build_network(transfer_options("mobilenet_v2"), STATISTICS).get_layer(features.BACKBONE_LAYER)
    first = next(layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization))
    maps = np.random.default_rng(3).normal(5.0, 2.0, (8, 6, 6, first.moving_mean.shape[0])).astype(np.float32)
    for _ in range(60):
        first(maps, training=True)
    np.testing.assert_allclose(first.moving_mean, maps.mean(axis=(0, 1, 2)), rtol=0.01)
    np.testing.assert_allclose(first.moving_variance, maps.var(axis=(0, 1, 2)), rtol=0.01)


def test_a_graph_without_positions_gets_a_constant_heat_map(vector_folder, images):
    model = build_network(transfer_options("saved_model", vector_folder), STATISTICS)
    explain = grad_cam.explainer(model, classification.TASK.explanation)
    heatmap = explain(tf.constant(images)).heatmap.numpy()
    assert all(len(np.unique(one)) == 1 and one.flat[0] in (0.0, 1.0) for one in heatmap)
