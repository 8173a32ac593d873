"""Finds the weights: compile, fit, keep the best; in two phases where the base is pre-trained."""

from __future__ import annotations

import logging
import math
import os
import time
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer_module import augmentation, distribution, features, history, models, optimizers, precision, tasks
from trainer_module.checkpoints import Checkpoint, CheckpointFile
from trainer_module.data_wait import DataWait
from trainer_module.frozen_features import frozen_features
from trainer_module.fused_normalization import fused
from trainer_module.history import History
from trainer_module.options import TrainerOptions

# One line an epoch for whoever watches the run; the command shows it beside the running node.
PROGRESS_LOGGER = "tfx_vision.progress"

# Names of the phases, in the column `phase` of the history.
WHOLE, HEAD, FINE_TUNING = "whole", "head", "fine_tuning"

_LOWER_THE_RATE = "Lower `training.learning_rate` (for example by a factor of ten) and run again."

# Above this share of the time, faster reading would make training noticeably faster.
_LONG_WAIT = 0.2


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number; no model is exported."""


class _Phase(NamedTuple):
    name: str
    epochs: int
    learning_rate: float


class _Fitted(NamedTuple):
    """What is fitted in a phase, on what, and watched on what."""

    model: keras.Model
    train_data: tf.data.Dataset
    validation_data: tf.data.Dataset


class _Shared(NamedTuple):
    """What all phases of a training share."""

    options: TrainerOptions
    loss: keras.losses.Loss
    steps_per_epoch: int
    records: History
    checkpoint: CheckpointFile


class _StopWhenDiverged(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if loss != loss:
            raise TrainingDivergedError(f"The training loss became NaN in step {batch + 1}. {_LOWER_THE_RATE}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"The validation loss became {loss} in epoch {epoch + 1}. {_LOWER_THE_RATE}")


class _Recorder(keras.callbacks.Callback):
    """Writes the history, and says how it goes."""

    def __init__(self, records: History, phase: _Phase, done: int, wait: DataWait | None) -> None:
        super().__init__()
        self._records, self._phase, self._wait = records, phase, wait
        self._first_fitted, self._first_of_phase = done, len(records.rows) - done
        self._start = self._trained = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._start, self._trained = time.perf_counter(), 0.0
        if self._wait:
            self._wait.take()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._trained = time.perf_counter() - self._start

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        seconds = time.perf_counter() - self._start
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        row: history.Row = {
            history.PHASE: self._phase.name,
            history.SECONDS: round(seconds, 3),
            history.LEARNING_RATE: float(rate),
        }
        if self._wait:
            row[history.DATA_WAIT] = round(self._wait.take() / (self._trained or seconds), 4)
        figures = {name: float(value) for name, value in (logs or {}).items() if name != "learning_rate"}
        self._records.append(row | figures)

        # Figures of single classes (`iou/road`) would hide the others; they are in the history.
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items() if "/" not in name)
        number, last = self._first_of_phase + epoch + 1, self._first_of_phase + self._phase.epochs
        logger = logging.getLogger(PROGRESS_LOGGER)
        logger.info("epoch %d/%d  %s", number, last, shown)
        waited = row.get(history.DATA_WAIT, 0.0)
        # The first epoch reads and decodes every picture, which later ones do not.
        if waited > _LONG_WAIT and epoch > self._first_fitted:
            logger.info("epoch %d: %.0f %% of the training time was spent waiting for pictures", number, 100 * waited)


class _Keeper(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch, and gives the other callbacks back what they knew."""

    # What Keras's callbacks learn while they watch.
    _MEMORY = (
        ("stopping", ("wait", "best", "best_epoch")),
        ("plateau", ("wait", "best")),
    )

    def __init__(
        self,
        shared: _Shared,
        phase: _Phase,
        before: list[np.ndarray],
        watching: dict[str, keras.callbacks.Callback],
        restored: Checkpoint | None,
    ) -> None:
        super().__init__()
        self._shared, self._phase, self._before = shared, phase, before
        self._watching, self._restored = watching, restored

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._restored is None:
            return
        self._watching["stopping"].best_weights = self._restored.arrays["best"]
        for name, known in self._restored.state["watching"].items():
            for attribute, value in known.items():
                setattr(self._watching[name], attribute, value)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._shared.checkpoint.is_written:
            return
        state = {
            "phase": self._phase.name,
            "epochs": epoch + 1,
            "stopped": bool(self.model.stop_training),
            "rows": self._shared.records.rows,
            "watching": {
                name: {attribute: getattr(self._watching[name], attribute) for attribute in attributes}
                for name, attributes in self._MEMORY
            },
        }
        arrays = {
            "variables": [variable.numpy() for variable in _variables(self.model)],
            "best": self._watching["stopping"].best_weights,
            "before": self._before,
        }
        self._shared.checkpoint.write(Checkpoint(state, arrays))


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
    """Compiles and fits; the model ends with the weights of the epoch whose validation loss was lowest.

    A model with a pre-trained base is trained in two phases: its head with the base frozen, then, if
    `fine_tuning.epochs` says so, the last layers of the base too, at a rate of their own. As long as the base is frozen
    and no augmentation is asked for, the base of a classifier sees every picture once, not once an epoch.

    Args:
      model: From pixels to logits. It computes in float32 afterwards, whatever the precision of training.
      options: `training`, `fine_tuning`, `augmentation`, `model` and what the task reads.
      train_data: (uint8 [n, h, w, c], label) batches of known number, shuffled; the label as the task's `read_label`
        gives it.
      validation_data: The same, in any order.
      run_dir: Receives `history.csv`, whose epochs go on from phase to phase, and TensorBoard's `train/` and
        `validation/`.
      checkpoint: Written after every epoch; an interrupted call goes on from it. The order of the pictures and of
        random changes in tf.data begins anew then. It is left for the caller to delete. None keeps nothing.
      cache_dir: Where features are kept that do not fit in memory; `cache/` in run_dir if not said. It is left for the
        caller to delete.

    Returns:
      Keras's history of all phases, one value an epoch for every figure of `trainer_module.history`.

    Raises:
      TrainingDivergedError: If the loss of a step becomes NaN, or that of the validation split is not finite.
    """
    checkpoint = checkpoint or CheckpointFile(None, key="")
    cache_dir = cache_dir or os.path.join(run_dir, "cache")
    saved = checkpoint.read()
    records = History(run_dir, saved.state["rows"] if saved else None)
    if saved:
        logging.getLogger(PROGRESS_LOGGER).info("going on after epoch %d", len(records.rows))
    task = tasks.get(options.task.name)
    shared = _Shared(options, task.loss(options, train_data), int(train_data.cardinality()), records, checkpoint)
    train_data = task.sample_weight(train_data, options)

    phases = _phases(options)
    names = [phase.name for phase in phases]
    for index in range(names.index(saved.state["phase"]) if saved else 0, len(phases)):
        phase, earlier = phases[index], set(names[:index])
        if saved and saved.arrays["before"]:
            model.set_weights(saved.arrays["before"])
        before = model.get_weights() if earlier else []
        if phase.name == FINE_TUNING:
            models.get(options.model.name).unfreeze(model, options.fine_tuning.unfreeze_layers)
        _fit(_prepared(model, options, phase, train_data, validation_data, cache_dir), phase, shared, before, saved)
        saved = None
        if before and records.lowest_loss(earlier) <= records.lowest_loss({phase.name}):
            model.set_weights(before)  # the phase made nothing better
    records.close()
    precision.to_float32(model)
    return records.as_keras()


def _phases(options: TrainerOptions) -> list[_Phase]:
    training, tuning = options.training, options.fine_tuning
    if not options.model.begins_frozen():
        return [_Phase(WHOLE, training.epochs, training.learning_rate)]
    phases = [_Phase(HEAD, training.epochs, training.learning_rate)]
    return [*phases, _Phase(FINE_TUNING, tuning.epochs, tuning.learning_rate)] if tuning.epochs else phases


def _prepared(
    model: keras.Model,
    options: TrainerOptions,
    phase: _Phase,
    train_data: tf.data.Dataset,
    validation_data: tf.data.Dataset,
    cache_dir: str,
) -> _Fitted:
    """Returns the model with augmentation, or its head on cached features.

    Only pooled vectors are cached: the maps that a decoder reads would be many times as large as the images.
    """
    fitted, changed = augmented(model, train_data, options)
    is_augmented = fitted is not model or changed is not train_data
    pools = any(layer.name == features.POOLED_LAYER for layer in model.layers)
    if phase.name != HEAD or is_augmented or not pools:
        return _Fitted(fitted, changed, validation_data)

    pooled = model.get_layer(features.POOLED_LAYER).output
    encoder = keras.Model(model.input, pooled, name="encoder")
    head = keras.Model(pooled, model.output, name="head")  # shares its layers with the model

    def encoded(data: tf.data.Dataset, split: str, shuffle_seed: int | None = None) -> tf.data.Dataset:
        return frozen_features(
            encoder,
            data,
            batch_size=options.training.batch_size,
            cache_path=os.path.join(cache_dir, f"features-{split}"),
            shuffle_seed=shuffle_seed,
        )

    seed = options.training.seed
    return _Fitted(head, encoded(train_data, features.TRAIN, seed), encoded(validation_data, features.VALIDATION))


def augmented(
    model: keras.Model, train_data: tf.data.Dataset, options: TrainerOptions
) -> tuple[keras.Model, tf.data.Dataset]:
    """Adds the augmentation to the data where labels change with the images, otherwise to the model."""
    task, chosen, seed = tasks.get(options.task.name), options.augmentation, options.training.seed
    if task.geometry_moves_labels or chosen.placement == "in_dataset" or chosen.mixes():
        return model, augmentation.in_dataset(train_data, task.augment(options), chosen, seed)
    return augmentation.in_model(model, chosen, seed), train_data


def _fit(fitted: _Fitted, phase: _Phase, shared: _Shared, before: list[np.ndarray], saved: Checkpoint | None) -> None:
    """One phase; it ends with the weights of its best epoch."""
    model, training = fitted.model, shared.options.training
    optimizer = optimizers.make(
        training,
        learning_rate=phase.learning_rate,
        epochs=phase.epochs,
        steps_per_epoch=shared.steps_per_epoch,
        weights=model.trainable_variables,
    )
    optimizer.build(model.trainable_variables)
    # Loss scaling is the optimizer's here, whatever the policy of the layers in front of the model.
    metrics = tasks.get(shared.options.task.name).training_metrics(shared.options)
    model.compile(optimizer, shared.loss, metrics=metrics, auto_scale_loss=False)
    done = saved.state["epochs"] if saved else 0
    if saved:
        for variable, value in zip(_variables(model), saved.arrays["variables"], strict=True):
            variable.assign(value)
        if saved.state["stopped"] or done == phase.epochs:
            model.set_weights(saved.arrays["best"])
            return

    watching = {
        "stopping": keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=training.early_stopping_patience or phase.epochs, restore_best_weights=True
        ),
        "plateau": keras.callbacks.ReduceLROnPlateau(
            monitor="val_loss", factor=training.plateau_factor, patience=training.plateau_patience
        ),
    }
    # Under a strategy the batches are divided anew, in threads that the clock does not see.
    wait = None if tf.distribute.has_strategy() else DataWait()
    distribution.prepare(model, fitted.train_data)
    callbacks = [
        _StopWhenDiverged(),
        watching["stopping"],
        *([watching["plateau"]] if training.schedule == "plateau" else []),
        _Recorder(shared.records, phase, done, wait),
        _Keeper(shared, phase, before, watching, saved),
    ]
    with fused(model):
        model.fit(
            wait.measured(fitted.train_data) if wait else distribution.divided(fitted.train_data),
            validation_data=distribution.divided(fitted.validation_data),
            initial_epoch=done,
            epochs=phase.epochs,
            callbacks=callbacks,
            shuffle=False,  # the data come shuffled
            verbose=0,
        )


def _variables(model: keras.Model) -> list[keras.Variable]:
    """All that an epoch changes: weights, states of random generators and of the optimizer."""
    return [*model.variables, *model.optimizer.variables]
