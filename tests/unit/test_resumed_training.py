"""An interrupted training goes on after its last finished epoch, as if nothing had happened."""

import csv
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module import backbones, features, training
from trainer_module.checkpoints import CheckpointFile
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import FineTuningOptions, TrainerOptions, TrainingOptions

STATISTICS = PixelStatistics(np.full(3, 100.0, np.float32), np.full(3, 900.0, np.float32))


class Killed(BaseException):
    """Like the signal, it passes every `except Exception`."""


def whole():
    """Dropout, a random layer, a rate that falls whenever the loss does not."""
    return TrainerOptions(
        classes=("a", "b"),
        transform={"image_size": 8},
        model={"name": "scratch_cnn", "blocks": [[4], [4]]},
        task={"dense_units": 4},
        augmentation={"horizontal_flip": True},
        training={"epochs": 5, "learning_rate": 0.3, "plateau_patience": 1, "early_stopping_patience": 3},
    )


def in_half_precision():
    """The optimizer is wrapped, and has variables of its own."""
    options = whole()
    return options.model_copy(
        update={"training": options.training.model_copy(update={"precision": "mixed_float16", "optimizer": "sgd"})}
    )


def two_phases():
    return TrainerOptions(
        classes=("a", "b"),
        transform={"image_size": 32, "normalization": "backbone"},
        # The kept features are shuffled, and another order would meet other random numbers.
        model={"name": "transfer"},
        task={"dropout": 0.0},
        training={"epochs": 2, "learning_rate": 0.05, "schedule": "one_cycle"},
        fine_tuning={"epochs": 2, "learning_rate": 0.01, "unfreeze_layers": 2},
    )


def standing_still():
    training = {"epochs": 9, "learning_rate": 1e-30, "early_stopping_patience": 2}
    return two_phases().model_copy(update={"training": TrainingOptions(**training), "fine_tuning": FineTuningOptions()})


def small_backbone(*, image_size, weights):
    x = inputs = keras.Input([image_size, image_size, 3])
    x = keras.layers.Conv2D(4, 3, 16, "same")(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.ReLU()(x), name=features.BACKBONE_LAYER)


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(backbones, "get", lambda _: types.SimpleNamespace(build=small_backbone, trainable=True))

    def run(options, name, killed_after=None):
        random = np.random.default_rng(7)
        size = options.transform.image_size
        images = random.integers(0, 255, (12, size, size, 3), dtype=np.uint8)
        # One batch an epoch: the order of the pictures, which begins anew, makes no difference.
        data = tf.data.Dataset.from_tensor_slices((images, np.arange(12, dtype=np.int64) % 2)).batch(12)
        keras.utils.set_random_seed(3)
        model = build_network(options, STATISTICS)
        checkpoint = CheckpointFile(str(tmp_path / f"{name}.npz"), "key")
        with monkeypatch.context() as patch:
            if killed_after:
                patch.setattr(training.History, "append", killing(training.History.append, killed_after))
            history = training.train(
                model,
                options,
                train_data=data,
                validation_data=data,
                run_dir=str(tmp_path / name),
                checkpoint=checkpoint,
            )
        with open(tmp_path / name / features.HISTORY_FILE, newline="") as file:
            table = [
                {key: row[key] for key in ("epoch", "phase", "val_loss", "learning_rate")}
                for row in csv.DictReader(file)
            ]
        return history, table, model.get_weights()

    return run


def killing(append, killed_after):
    """Ends it in the middle of the epoch after so many: figures are known, the checkpoint is not written."""

    def killed(self, row):
        if len(self.rows) == killed_after:
            raise Killed
        append(self, row)

    return killed


@pytest.mark.parametrize(
    ("options", "killed_after"), [(whole, 1), (whole, 2), (in_half_precision, 2), *((two_phases, n) for n in (1, 2, 3))]
)
def test_the_same_numbers_as_without_interruption(run, options, killed_after):
    expected, expected_table, expected_weights = run(options(), "straight")
    with pytest.raises(Killed):
        run(options(), "killed", killed_after)
    found, table, weights = run(options(), "killed")
    assert [row["phase"] for row in table] == [row["phase"] for row in expected_table]
    for column in ("val_loss", "learning_rate"):
        np.testing.assert_allclose(found.history[column], expected.history[column], rtol=1e-5)
        np.testing.assert_allclose([float(row[column]) for row in table], expected.history[column], rtol=1e-5)
    for one, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_was_finished_is_not_done_again(run):
    options = two_phases()
    expected, _, expected_weights = run(options, "done")
    found, _, weights = run(options, "done")
    assert found.history["seconds"] == expected.history["seconds"]  # not trained for another second
    for one, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_early_stopping_counts_on(run):
    options = standing_still()
    with pytest.raises(Killed):
        run(options, "waiting", 2)  # one epoch of its patience is gone
    found, _, _ = run(options, "waiting")
    assert len(found.epoch) == 3


def test_early_stopping_is_remembered(run):
    options = standing_still()
    expected, _, _ = run(options, "stopped")
    assert len(expected.epoch) == 3  # the first, which is the best, and the patience of two
    found, _, _ = run(options, "stopped")
    assert found.history["seconds"] == expected.history["seconds"]
