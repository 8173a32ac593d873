"""Fused batch normalisation gives the values of Keras's."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module import fused_normalization
from trainer_module.fused_normalization import fused


def norms(dtype="float32", **keys):
    keras.utils.set_random_seed(5)
    inner = keras.Sequential([keras.Input((4, 5, 3)), keras.layers.BatchNormalization(dtype=dtype, **keys)])
    model = keras.Sequential([keras.Input((4, 5, 3)), inner, keras.layers.BatchNormalization(dtype=dtype, **keys)])
    for layer in (inner.layers[0], model.layers[1]):
        layer.set_weights([np.random.default_rng(1).uniform(0.5, 2, 3) for _ in layer.get_weights()])
    return model


def outcome(model, training, trainable=True):
    inner = model.layers[0]
    inner.trainable = trainable
    images = tf.constant(np.random.default_rng(2).normal(3, 2, (6, 4, 5, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(images)
        output = model(images, training=training)
        loss = tf.reduce_sum(tf.cast(output, tf.float32) ** 3)
    gradients = tape.gradient(loss, [images, *(weight.value for weight in model.trainable_weights)])
    return [np.array(value, np.float32) for value in (output, *gradients, *model.get_weights())]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("keys", [{}, {"scale": False}, {"center": False, "momentum": 0.9, "epsilon": 0.01}])
def test_outputs_gradients_and_moving_statistics(monkeypatch, training, trainable, keys):
    monkeypatch.setattr(fused_normalization._FusedBatchNormalization, "_is_faster_by_batch", lambda self: True)
    expected = outcome(norms(**keys), training, trainable)
    model = norms(**keys)
    with fused(model):
        actual = outcome(model, training, trainable)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-3)


def test_in_bfloat16():
    expected = outcome(norms(), True)[0]
    model = norms("mixed_bfloat16")
    with fused(model):
        actual = outcome(model, True)[0]
    np.testing.assert_allclose(actual, expected, atol=0.1)


def test_the_operation_is_used_inside_the_block_only():
    model = norms()

    def operations():
        call = tf.function(lambda images: model(images, training=False))
        graph = call.get_concrete_function(tf.TensorSpec([None, 4, 5, 3], tf.float32)).graph
        return [operation.type for operation in graph.get_operations()]

    with fused(model):
        assert operations().count("FusedBatchNormV3") == 2
    assert operations().count("FusedBatchNormV3") == 0
    assert type(model.layers[1]) is keras.layers.BatchNormalization


def test_layers_that_cannot_be_fused_are_left_as_they_are():
    flat = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    with fused(flat):
        assert type(flat.layers[0]) is keras.layers.BatchNormalization
