"""An interrupted training resumes after its last finished epoch and has the same result."""

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
    """Passes every `except Exception`, like a signal."""


def one_phase():
    """With dropout, a random layer, and a learning rate that is reduced whenever the loss does not improve."""
    return TrainerOptions(
        classes=("a", "b"),
        transform={"image_size": 8},
        model={"name": "scratch_cnn", "blocks": [[4], [4]]},
        task={"dense_units": 4},
        augmentation={"horizontal_flip": True},
        training={"epochs": 5, "learning_rate": 0.3, "plateau_patience": 1, "early_stopping_patience": 3},
    )


def mixed_precision():
    """With a wrapped optimizer, which has its own variables."""
    options = one_phase()
    return options.model_copy(
        update={"training": options.training.model_copy(update={"precision": "mixed_float16", "optimizer": "sgd"})}
    )


def averaged():
    """With the average of the weights in place of those of the last epoch."""
    options = last_epoch()
    return options.model_copy(update={"training": options.training.model_copy(update={"weight_average": 0.5})})


def two_phases():
    return TrainerOptions(
        classes=("a", "b"),
        transform={"image_size": 32, "normalization": "backbone"},
        # Without dropout: cached features are shuffled, so other examples would get the same random numbers.
        model={"name": "transfer"},
        task={"dropout": 0.0},
        training={"epochs": 2, "learning_rate": 0.05, "schedule": "one_cycle"},
        fine_tuning={"epochs": 2, "learning_rate": 0.01, "unfreeze_layers": 2},
    )


def last_epoch():
    keys = {"schedule": "one_cycle", "early_stopping_patience": 0, "kept_epoch": "last"}
    options = two_phases()
    return options.model_copy(update={"training": options.training.model_copy(update=keys)})


def early_stopping():
    training = {"epochs": 9, "learning_rate": 1e-30, "early_stopping_patience": 2}
    return two_phases().model_copy(update={"training": TrainingOptions(**training), "fine_tuning": FineTuningOptions()})


def small_backbone(*, image_size, weights):
    x = inputs = keras.Input([*image_size, 3])
    x = keras.layers.Conv2D(4, 3, 16, "same")(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.ReLU()(x), name=features.BACKBONE_LAYER)


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(backbones, "get", lambda _: types.SimpleNamespace(build=small_backbone, trainable=True))

    def run(options, name, killed_after=None):
        random = np.random.default_rng(7)
        images = random.integers(0, 255, (12, *options.transform.image_size, 3), dtype=np.uint8)
        # One batch per epoch: the order of the images, which a resumed training repeats, does not matter.
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
    """Interrupts an epoch when its metrics are known and its checkpoint is not written."""

    def killed(self, row):
        if len(self.rows) == killed_after:
            raise Killed
        append(self, row)

    return killed


@pytest.mark.parametrize(
    ("options", "killed_after"),
    [
        (one_phase, (1, 2)),
        (mixed_precision, (2,)),
        (two_phases, (1, 2, 3)),
        (last_epoch, (1, 3)),
        (averaged, (1, 3)),
    ],
)
def test_a_training_that_was_killed_and_resumed_again_and_again_has_the_same_result(run, options, killed_after):
    expected, expected_table, expected_weights = run(options(), "uninterrupted")
    for epochs in killed_after:
        with pytest.raises(Killed):
            run(options(), "killed", epochs)
    resumed, table, weights = run(options(), "killed")
    assert [row["phase"] for row in table] == [row["phase"] for row in expected_table]
    for column in ("val_loss", "learning_rate"):
        np.testing.assert_allclose(resumed.history[column], expected.history[column], rtol=1e-5)
        np.testing.assert_allclose([float(row[column]) for row in table], expected.history[column], rtol=1e-5)
    for one, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_finished_training_is_not_repeated(run):
    options = two_phases()
    expected, _, expected_weights = run(options, "done")
    repeated, _, weights = run(options, "done")
    assert repeated.history["seconds"] == expected.history["seconds"]  # not trained again
    for one, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_early_stopping_continues_to_count(run):
    options = early_stopping()
    with pytest.raises(Killed):
        run(options, "waiting", 2)  # one epoch of its patience is used
    resumed, _, _ = run(options, "waiting")
    assert len(resumed.epoch) == 3


def test_a_stopped_training_stays_stopped(run):
    options = early_stopping()
    expected, _, _ = run(options, "stopped")
    assert len(expected.epoch) == 3  # the first, which is the best, and two of patience
    resumed, _, _ = run(options, "stopped")
    assert resumed.history["seconds"] == expected.history["seconds"]
