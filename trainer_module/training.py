"""Trains a network and keeps its best weights; in two phases if the model has a pre-trained backbone."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer_module import augmentation, distribution, features, models, optimizers, precision, tasks
from trainer_module.any_size import accepting_any_size
from trainer_module.checkpoints import Checkpoint, CheckpointFile
from trainer_module.data_wait import DataWait
from trainer_module.frozen_features import frozen_features
from trainer_module.fused_normalization import fused
from trainer_module.history import DATA_WAIT, LEARNING_RATE, PHASE, SECONDS, History, Row
from trainer_module.options import TrainerOptions

# Names of the phases, in the column `phase` of the history.
WHOLE, HEAD, FINE_TUNING = "whole", "head", "fine_tuning"

_LOWER_LEARNING_RATE = "Lower `training.learning_rate` (for example by a factor of ten) and run again."

# Above this share of the training time, faster reading would make training noticeably faster.
_LONG_WAIT = 0.2


class TrainingDivergedError(RuntimeError):
    """The loss became NaN or infinite; no model is exported."""


class _Phase(NamedTuple):
    name: str
    epochs: int
    learning_rate: float


class _Fit(NamedTuple):
    """The model and the data of one phase."""

    model: keras.Model
    train_data: tf.data.Dataset
    validation_data: tf.data.Dataset


class _Training(NamedTuple):
    """Everything that all phases share."""

    options: TrainerOptions
    loss: keras.losses.Loss
    steps_per_epoch: int
    history: History
    checkpoint: CheckpointFile


class _DivergenceCheck(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if loss != loss:
            raise TrainingDivergedError(f"The training loss became NaN in step {batch + 1}. {_LOWER_LEARNING_RATE}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"The validation loss became {loss} in epoch {epoch + 1}. {_LOWER_LEARNING_RATE}"
            )


class _HistoryWriter(keras.callbacks.Callback):
    """Writes the history and logs the progress."""

    def __init__(self, history: History, phase: _Phase, first_epoch: int, wait: DataWait | None) -> None:
        super().__init__()
        self._history, self._phase, self._wait = history, phase, wait
        self._first_epoch, self._earlier_epochs = first_epoch, len(history.rows) - first_epoch
        self._start = self._training_seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._start, self._training_seconds = time.perf_counter(), 0.0
        if self._wait:
            self._wait.pop()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._training_seconds = time.perf_counter() - self._start

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = time.perf_counter() - self._start
        learning_rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        row: Row = {
            PHASE: self._phase.name,
            SECONDS: round(seconds, 3),
            LEARNING_RATE: float(learning_rate),
        }
        if self._wait:
            row[DATA_WAIT] = round(self._wait.pop() / (self._training_seconds or seconds), 4)
        metrics = {name: float(value) for name, value in (logs or {}).items() if name != "learning_rate"}
        self._history.append(row | metrics)

        # Metrics of single classes (`iou/road`) are in the history only: they would hide the others.
        values = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
        number, last = self._earlier_epochs + epoch + 1, self._earlier_epochs + self._phase.epochs
        logger = logging.getLogger(features.PROGRESS_LOGGER)
        logger.info("epoch %d/%d  %s", number, last, values)
        wait = row.get(DATA_WAIT, 0.0)
        # Only the first epoch reads and decodes the images.
        if wait > _LONG_WAIT and epoch > self._first_epoch:
            logger.info("epoch %d: %.0f %% of the training time was spent waiting for images", number, 100 * wait)


class _CheckpointWriter(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch, and restores the state of the other callbacks."""

    # Attributes of Keras's callbacks that change during training.
    _CALLBACK_STATE = (
        ("stopping", ("wait", "best", "best_epoch")),
        ("plateau", ("wait", "best")),
    )

    def __init__(
        self,
        training: _Training,
        phase: _Phase,
        initial_weights: list[np.ndarray],
        callbacks: dict[str, keras.callbacks.Callback],
        restored: Checkpoint | None,
    ) -> None:
        super().__init__()
        self._training, self._phase, self._initial_weights = training, phase, initial_weights
        self._callbacks, self._restored = callbacks, restored

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._restored is None:
            return
        self._callbacks["stopping"].best_weights = self._restored.arrays["best"]
        for name, attributes in self._restored.state["callbacks"].items():
            for attribute, value in attributes.items():
                setattr(self._callbacks[name], attribute, value)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._training.checkpoint.is_written:
            return
        state = {
            "phase": self._phase.name,
            "epochs": epoch + 1,
            "stopped": bool(self.model.stop_training),
            "rows": self._training.history.rows,
            "callbacks": {
                name: {attribute: getattr(self._callbacks[name], attribute) for attribute in attributes}
                for name, attributes in self._CALLBACK_STATE
            },
        }
        arrays = {
            "variables": [variable.numpy() for variable in _variables(self.model)],
            "best": self._callbacks["stopping"].best_weights or [],
            "initial": self._initial_weights,
        }
        self._training.checkpoint.write(Checkpoint(state, arrays))


def train(
    model: keras.Model,
    options: TrainerOptions,
    *,
    train_data: tf.data.Dataset,
    validation_data: tf.data.Dataset,
    run_dir: str,
    checkpoint: CheckpointFile | None = None,
    cache_dir: str | None = None,
) -> keras.callbacks.History:
    """Compiles and fits the model, which ends with the weights of the epoch that `training.kept_epoch` selects.

    A model with a pre-trained backbone is trained in two phases: first the head with the backbone frozen, then, if
    `fine_tuning.epochs` is above 0, the last layers of the backbone too, with a learning rate of its own. While the
    backbone is frozen and no augmentation is active, the backbone of a classifier processes every image once, not once
    per epoch.

    Args:
      model: Network from pixels to logits. Afterwards it computes in float32, whatever the precision of training.
      options: `training`, `fine_tuning`, `augmentation`, `model` and the keys that the task reads.
      train_data: (uint8 [n, h, w, c], label) batches of known number, shuffled; labels as from the task's `read_label`.
        With several workers, those of this worker's shard: n is the batch size divided by the number of workers.
      validation_data: The same, in any order, for all workers together.
      run_dir: Receives `history.csv`, whose epochs continue from phase to phase, and TensorBoard's `train/` and
        `validation/`.
      checkpoint: Written after every epoch; an interrupted call resumes from it, with a new order of the images and new
        random changes in tf.data. The caller deletes it. None stores nothing.
      cache_dir: Receives features that do not fit in memory; `cache/` in run_dir by default. The caller deletes it.

    Returns:
      Keras's history of all phases: one value per epoch for every column of `trainer_module.history`.

    Raises:
      TrainingDivergedError: If the loss of a step becomes NaN, or the validation loss is not finite.
    """
    checkpoint = checkpoint or CheckpointFile(None, key="")
    cache_dir = cache_dir or os.path.join(run_dir, "cache")
    restored = checkpoint.read()
    history = History(run_dir, restored.state["rows"] if restored else None)
    if slowness := precision.slowness(options.training.precision):
        logging.getLogger(features.PROGRESS_LOGGER).warning(slowness)
    if restored:
        logging.getLogger(features.PROGRESS_LOGGER).info("resuming after epoch %d", len(history.rows))
    task = tasks.get(options.task.name)
    training = _Training(options, task.loss(options, train_data), int(train_data.cardinality()), history, checkpoint)
    train_data = task.sample_weight(train_data, options)

    phases = _phases(options)
    names = [phase.name for phase in phases]
    for index in range(names.index(restored.state["phase"]) if restored else 0, len(phases)):
        phase, earlier = phases[index], set(names[:index])
        if restored and restored.arrays["initial"]:
            model.set_weights(restored.arrays["initial"])
        initial_weights = model.get_weights() if earlier else []
        if phase.name == FINE_TUNING:
            models.unfreeze(model, options.fine_tuning.unfreeze_layers)
        fit = _prepare_fit(model, options, phase, train_data, validation_data, cache_dir)
        _run_phase(fit, phase, training, initial_weights, restored)
        restored = None
        selects = options.training.kept_epoch == "best"
        if selects and initial_weights and history.lowest_val_loss(earlier) <= history.lowest_val_loss({phase.name}):
            model.set_weights(initial_weights)  # the phase did not improve the model
    history.close()
    precision.to_float32(model)
    return history.to_keras()


def _phases(options: TrainerOptions) -> list[_Phase]:
    training, tuning = options.training, options.fine_tuning
    if not options.model.begins_frozen():
        return [_Phase(WHOLE, training.epochs, training.learning_rate)]
    phases = [_Phase(HEAD, training.epochs, training.learning_rate)]
    return [*phases, _Phase(FINE_TUNING, tuning.epochs, tuning.learning_rate)] if tuning.epochs else phases


def _prepare_fit(
    model: keras.Model,
    options: TrainerOptions,
    phase: _Phase,
    train_data: tf.data.Dataset,
    validation_data: tf.data.Dataset,
    cache_dir: str,
) -> _Fit:
    """Returns the model with augmentation, or its head on cached features.

    Only pooled vectors are cached: the maps that a decoder reads would be many times as large as the images.
    """
    fitted, augmented_data = add_augmentation(model, train_data, options)
    is_augmented = fitted is not model or augmented_data is not train_data
    pools = any(layer.name == features.POOLED_LAYER for layer in model.layers)
    if phase.name != HEAD or is_augmented or not pools:
        return _Fit(fitted, augmented_data, validation_data)

    pooled = model.get_layer(features.POOLED_LAYER).output
    encoder = keras.Model(model.input, pooled, name="encoder")
    head = keras.Model(pooled, model.output, name="head")  # shares its layers with the model

    def encode(data: tf.data.Dataset, split: str, batch_size: int, shuffle_seed: int | None = None) -> tf.data.Dataset:
        return frozen_features(
            encoder,
            data,
            batch_size=batch_size,
            cache_path=os.path.join(cache_dir, f"features-{split}"),
            shuffle_seed=shuffle_seed,
        )

    seed, batch_size = options.training.seed, options.training.batch_size
    own_batch_size = distribution.shard().batch_size(batch_size)
    return _Fit(
        head,
        encode(train_data, features.TRAIN, own_batch_size, seed),
        encode(validation_data, features.VALIDATION, batch_size),
    )


def add_augmentation(
    model: keras.Model, train_data: tf.data.Dataset, options: TrainerOptions
) -> tuple[keras.Model, tf.data.Dataset]:
    """Adds the augmentation to the data if labels change with the images, otherwise to the model."""
    task, augment, seed = tasks.get(options.task.name), options.augmentation, options.training.seed
    if task.geometry_moves_labels or augment.placement == "in_dataset" or augment.mixes():
        return model, augmentation.in_dataset(train_data, task.augment(options), augment, seed)
    return augmentation.in_model(model, augment, seed), train_data


def _run_phase(
    fit: _Fit, phase: _Phase, training: _Training, initial_weights: list[np.ndarray], restored: Checkpoint | None
) -> None:
    """Trains one phase; the model ends with the weights of the phase's best or last epoch."""
    model, options = fit.model, training.options.training
    optimizer = optimizers.build(
        options,
        learning_rate=phase.learning_rate,
        epochs=phase.epochs,
        steps_per_epoch=training.steps_per_epoch,
        weights=model.trainable_variables,
    )
    optimizer.build(model.trainable_variables)
    # The optimizer scales the loss, whatever the dtype policy of the model's layers.
    metrics = tasks.get(training.options.task.name).training_metrics(training.options)
    model.compile(optimizer, training.loss, metrics=metrics, auto_scale_loss=False)
    first_epoch = restored.state["epochs"] if restored else 0
    if restored:
        for variable, value in zip(_variables(model), restored.arrays["variables"], strict=True):
            variable.assign(value)
        if restored.state["stopped"] or first_epoch == phase.epochs:
            if restored.arrays["best"]:
                model.set_weights(restored.arrays["best"])
            return

    if restored and options.weight_average:
        # An epoch ends with the average in the model, and so does its checkpoint; the next begins without it.
        swap = keras.callbacks.SwapEMAWeights()
        swap.set_model(model)
        swap.on_test_begin()
    average = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if options.weight_average else []
    callbacks = {
        "stopping": keras.callbacks.EarlyStopping(
            monitor="val_loss",
            patience=options.early_stopping_patience or phase.epochs,
            restore_best_weights=options.kept_epoch == "best",
        ),
        "plateau": keras.callbacks.ReduceLROnPlateau(
            monitor="val_loss", factor=options.plateau_factor, patience=options.plateau_patience
        ),
    }
    # A strategy distributes the batches in threads of its own, which the measurement does not cover.
    wait = None if tf.distribute.has_strategy() else DataWait()
    distribution.prepare_fit(model, fit.train_data)
    crops = training.options.augmentation.crop
    with fused(model), accepting_any_size(model) if crops else contextlib.nullcontext():
        model.fit(
            wait.measure(fit.train_data)
            if wait
            else distribution.distribute_train_data(fit.train_data, options.batch_size),
            validation_data=distribution.shard_by_data(fit.validation_data),
            initial_epoch=first_epoch,
            epochs=phase.epochs,
            callbacks=[
                _DivergenceCheck(),
                distribution.StatisticsAverage(),
                *average,  # before the callbacks that keep the weights of an epoch
                callbacks["stopping"],
                *([callbacks["plateau"]] if options.schedule == "plateau" else []),
                _HistoryWriter(training.history, phase, first_epoch, wait),
                _CheckpointWriter(training, phase, initial_weights, callbacks, restored),
            ],
            shuffle=False,  # the data are shuffled already
            verbose=0,
        )


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Returns everything that an epoch changes: weights, states of random generators and of the optimizer."""
    return [*model.variables, *model.optimizer.variables]
