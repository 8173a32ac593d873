"""Grad-CAM where the answer is known in closed form, and its invariances."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module import features, grad_cam

SIZE, CHANNELS, CLASSES = 8, 3, 4


@pytest.fixture
def weights(rng):
    return rng.normal(size=(CHANNELS, CLASSES)).astype(np.float32)


@pytest.fixture
def linear_model(weights):
    """Logits are a linear function of the mean of every channel: the gradient is the weight over the area."""
    inputs = keras.Input([SIZE, SIZE, CHANNELS])
    x = keras.layers.Activation("linear", name=features.FEATURES_LAYER)(inputs)
    x = keras.layers.GlobalAveragePooling2D(name=features.EMBEDDING_LAYER)(x)
    outputs = keras.layers.Dense(CLASSES, use_bias=False, name=features.LOGITS_LAYER)(x)
    model = keras.Model(inputs, outputs)
    model.get_layer(features.LOGITS_LAYER).set_weights([weights])
    return model


@pytest.fixture
def images(rng):
    return rng.uniform(0, 1, (5, SIZE, SIZE, CHANNELS)).astype(np.float32)


def test_a_linear_model_gives_the_weighted_feature_map(linear_model, images, weights):
    class_ids = np.array([0, 1, 2, 3, 0])
    explanation = grad_cam.explainer(linear_model)(tf.constant(images), tf.constant(class_ids))
    maps = np.maximum(np.einsum("nhwc,cn->nhw", images, weights[:, class_ids]), 0.0)
    expected = maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-30)
    np.testing.assert_allclose(explanation.heatmap, expected, atol=1e-5)


def test_the_predicted_class_is_explained_unless_another_is_named(linear_model, images):
    explanation = grad_cam.explainer(linear_model)(tf.constant(images))
    logits = linear_model(images).numpy()
    np.testing.assert_array_equal(explanation.class_id, logits.argmax(axis=1))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(explanation.score, probabilities.max(axis=1), rtol=1e-5)


def test_a_batch_gives_what_single_pictures_give(linear_model, images):
    explain = grad_cam.explainer(linear_model)
    together = explain(tf.constant(images)).heatmap
    singly = np.concatenate([explain(tf.constant(images[i : i + 1])).heatmap for i in range(len(images))])
    np.testing.assert_allclose(together, singly, atol=1e-6)


def test_a_mirrored_picture_gives_the_mirrored_map(linear_model, images):
    explain = grad_cam.explainer(linear_model)
    straight = explain(tf.constant(images)).heatmap.numpy()
    mirrored = explain(tf.constant(images[:, :, ::-1])).heatmap.numpy()
    np.testing.assert_allclose(straight[:, :, ::-1], mirrored, atol=1e-6)


def test_a_map_without_evidence_is_zero_and_finite(linear_model, images):
    linear_model.get_layer(features.LOGITS_LAYER).set_weights([-np.ones((CHANNELS, CLASSES), np.float32)])
    heatmap = grad_cam.explainer(linear_model)(tf.constant(images)).heatmap.numpy()
    np.testing.assert_array_equal(heatmap, np.zeros_like(heatmap))


def test_a_layer_that_is_not_spatial_is_refused(linear_model):
    with pytest.raises(ValueError, match=r"needs a layer with output \[N, h, w, c\]; 'embedding'"):
        grad_cam.explainer(linear_model, features.EMBEDDING_LAYER)


def test_overlay_blends_by_alpha(rng):
    images = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    heat = rng.uniform(0, 1, (2, 224, 224)).astype(np.float32)
    colors = grad_cam.color_table("jet")
    np.testing.assert_array_equal(grad_cam.overlay(tf.constant(images), heat, colors, 0.0), images)
    full = colors[np.round(heat * 255).astype(int)]
    expected = np.round(0.6 * images + 0.4 * full)
    difference = grad_cam.overlay(tf.constant(images), heat, colors, 0.4).numpy().astype(int) - expected
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("side", "shown"), [(16, 224), (100, 300), (223, 446), (300, 300)])
def test_small_overlays_are_enlarged_by_a_whole_factor(side, shown):
    images = tf.zeros([1, side, side, 1], tf.uint8)
    overlay = grad_cam.overlay(images, tf.zeros([1, side, side]), grad_cam.color_table("viridis"), 0.4)
    assert overlay.shape == (1, shown, shown, 3)


def test_an_unknown_colour_map_names_some():
    with pytest.raises(ValueError, match="Unknown colour map 'rainbows'"):
        grad_cam.color_table("rainbows")
