"""Optimizers and learning-rate schedules behave as configured."""

import keras
import numpy as np
import pytest

from trainer_module import optimizers
from trainer_module.options import TrainingOptions

EPOCHS, STEPS = 10, 20


def build(weights=(), **keys):
    chosen = TrainingOptions(**keys)
    return optimizers.build(chosen, learning_rate=0.5, epochs=EPOCHS, steps_per_epoch=STEPS, weights=weights)


def rates(**keys):
    schedule = build(**keys)._learning_rate  # a schedule, or a variable
    return np.array([float(schedule(step)) for step in range(EPOCHS * STEPS + 1)])


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, keras.optimizers.Adam),
        ({"optimizer": "adamw", "weight_decay": 0.01}, keras.optimizers.AdamW),
        ({"optimizer": "sgd"}, keras.optimizers.SGD),
    ],
)
def test_kinds(keys, kind):
    optimizer = build(**keys)
    assert type(optimizer) is kind
    assert float(optimizer.learning_rate) == pytest.approx(0.5)


def test_momentum_accumulates_gradients():
    weight = keras.Variable([0.0])
    optimizer = build(optimizer="sgd", momentum=0.5)
    for gradient in (1.0, 0.0, 0.0):
        optimizer.apply([np.array([gradient], np.float32)], [weight])
    assert float(weight[0]) == pytest.approx(-0.5 * (1 + 0.5 + 0.25))


def test_cosine_decays_to_0():
    values = rates(schedule="cosine")
    assert values[0] == pytest.approx(0.5)
    assert values[EPOCHS * STEPS // 2] == pytest.approx(0.25)
    assert values[-1] == pytest.approx(0.0, abs=1e-7)
    assert np.all(np.diff(values) <= 0)


def test_warm_up_grows_linearly():
    values = rates(schedule="cosine", warmup_epochs=2)
    warmup = 2 * STEPS
    np.testing.assert_allclose(values[:warmup], 0.5 * np.arange(1, warmup + 1) / warmup, rtol=1e-6)
    assert values[warmup] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0.0, abs=1e-7)


def test_one_cycle_rises_then_falls():
    values = rates(schedule="one_cycle")
    peak = int(values.argmax())
    assert peak == pytest.approx(0.3 * EPOCHS * STEPS, abs=1)
    assert values[peak] == pytest.approx(0.5, rel=1e-3)
    assert values[0] == pytest.approx(0.5 / 25)
    assert values[-1] == pytest.approx(0.5e-4)
    assert np.all(np.diff(values[: peak + 1]) > 0) and np.all(np.diff(values[peak:]) < 0)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_schedule_can_be_saved(schedule):
    before = build(schedule=schedule)
    after = keras.optimizers.deserialize(keras.optimizers.serialize(before))
    for step in (0, 33, 150):
        assert float(after._learning_rate(step)) == float(before._learning_rate(step))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_is_not_applied_to_vectors(name):
    kernel, bias = keras.Variable(np.ones((2, 2)), name="kernel"), keras.Variable(np.ones(2), name="bias")
    optimizer = build([kernel, bias], optimizer=name, weight_decay=0.1)
    optimizer.apply([np.zeros((2, 2), np.float32), np.zeros(2, np.float32)], [kernel, bias])
    np.testing.assert_allclose(kernel, 1 - 0.5 * 0.1)
    np.testing.assert_array_equal(bias, 1.0)


def test_clipping_limits_the_global_norm():
    one, other = keras.Variable([0.0]), keras.Variable([0.0])
    build(optimizer="sgd", momentum=0.0, clip_norm=1.0).apply(
        [np.array([30.0], np.float32), np.array([40.0], np.float32)], [one, other]
    )
    np.testing.assert_allclose([one[0], other[0]], [-0.5 * 0.6, -0.5 * 0.8], rtol=1e-6)


def test_half_precision_scales_the_loss():
    optimizer = build(precision="mixed_float16", optimizer="adamw", weight_decay=0.01)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(optimizer.inner_optimizer, keras.optimizers.AdamW)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weight_decay": 0.1}, 'use "adamw", which is Adam with weight decay'),
        ({"optimizer": "adamw"}, "adamw without weight_decay equals adam: set training.weight_decay"),
        ({"nesterov": True}, 'nesterov requires optimizer = "sgd"'),
        ({"warmup_epochs": 1}, 'warmup_epochs requires schedule = "cosine"'),
        ({"schedule": "cosine", "warmup_epochs": 20, "epochs": 20}, "must be less than epochs = 20"),
    ],
)
def test_conflicting_keys(keys, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**keys)
