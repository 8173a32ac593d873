"""Finds the weights: compile, fit, keep the best; in two phases where the base is pre-trained."""

from __future__ import annotations

import logging
import os
import time
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer_module import distribution, features, history, models, optimizers, precision, tasks
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

# Above this share of the time, faster reading would make training noticeably faster.
_LONG_WAIT = 0.2


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number; no model is exported."""


class _Phase(NamedTuple):
    name: str
    epochs: int
    learning_rate: float


class _StopOnNan(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if loss != loss:
            raise TrainingDivergedError(
                f"The training loss became NaN in step {batch + 1}. "
                "Lower `training.learning_rate` (for example by a factor of ten) and run again."
            )


class _Recorder(keras.callbacks.Callback):
    """Writes the history, and says how it goes."""

    def __init__(self, records: History, phase: _Phase, first_epoch: int, wait: DataWait | None) -> None:
        super().__init__()
        self._records, self._phase, self._first_epoch, self._wait = records, phase, first_epoch, wait
        self._start = self._trained = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._start, self._trained = time.perf_counter(), 0.0
        if self._wait:
            self._wait.take()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._trained = time.perf_counter() - self._start

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        row: history.Row = {
            history.PHASE: self._phase.name,
            history.SECONDS: round(time.perf_counter() - self._start, 3),
            history.LEARNING_RATE: float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
        }
        if self._wait:
            row[history.DATA_WAIT] = round(self._wait.take() / self._trained, 4)
        figures = {name: float(value) for name, value in (logs or {}).items() if name != "learning_rate"}
        self._records.append(row | figures)

        # Figures of single classes (`iou/road`) would hide the others; they are in the history.
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items() if "/" not in name)
        last_epoch = self._first_epoch + self._phase.epochs
        logger = logging.getLogger(PROGRESS_LOGGER)
        logger.info("epoch %d/%d  %s", self._first_epoch + epoch + 1, last_epoch, shown)
        waited = row.get(history.DATA_WAIT, 0.0)
        # The first epoch reads and decodes every picture, which later ones do not.
        if waited > _LONG_WAIT and epoch > 0:
            logger.info(
                "epoch %d: %.0f %% of the training time was spent waiting for pictures", epoch + 1, 100 * waited
            )


class _Keeper(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch, and gives the other callbacks back what they knew."""

    def __init__(
        self,
        file: CheckpointFile,
        records: History,
        phase: _Phase,
        before: list[np.ndarray],
        stopping: keras.callbacks.EarlyStopping,
        plateau: keras.callbacks.ReduceLROnPlateau,
        restored: Checkpoint | None,
    ) -> None:
        super().__init__()
        self._file, self._records, self._phase, self._before = file, records, phase, before
        self._stopping, self._plateau, self._restored = stopping, plateau, restored

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._restored is None:
            return
        state = self._restored.state
        self._stopping.wait, self._stopping.best = state["stopping_wait"], state["best_loss"]
        self._stopping.best_epoch, self._stopping.best_weights = state["best_epoch"], self._restored.arrays["best"]
        self._plateau.wait, self._plateau.best = state["plateau_wait"], state["plateau_best"]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        stopping, plateau = self._stopping, self._plateau
        self._file.write(
            Checkpoint(
                {
                    "phase": self._phase.name,
                    "epochs": epoch + 1,
                    "stopped": bool(self.model.stop_training),
                    "rows": self._records.rows,
                    "best_loss": stopping.best,
                    "best_epoch": stopping.best_epoch,
                    "stopping_wait": stopping.wait,
                    "plateau_wait": plateau.wait,
                    "plateau_best": plateau.best,
                },
                {
                    "variables": [variable.numpy() for variable in _variables(self.model)],
                    "best": stopping.best_weights,
                    "before": self._before,
                },
            )
        )


def train(
    model: keras.Model,
    options: TrainerOptions,
    *,
    train_data: tf.data.Dataset,
    validation_data: tf.data.Dataset,
    run_dir: str,
    checkpoint: CheckpointFile | None = None,
) -> keras.callbacks.History:
    """Compiles and fits; the model ends with the weights of the epoch whose validation loss was lowest.

    A model with a pre-trained base is trained in two phases: its head with the base frozen, then, if
    `fine_tuning.epochs` says so, the last layers of the base too, at a rate of their own. As long as the base is frozen
    and no augmentation is asked for, the base sees every picture once, not once an epoch.

    Args:
      model: From pixels to logits. It computes in float32 afterwards, whatever the precision of training.
      options: `training`, `fine_tuning`, `augmentation`, `model` and what the task reads.
      train_data: (uint8 [n, h, w, c], label) batches of known number, shuffled; the label as the task's `read_label`
        gives it.
      validation_data: The same, in any order.
      run_dir: Receives `history.csv`, whose epochs go on from phase to phase, and TensorBoard's `train/` and
        `validation/`; `cache/` in it is used while training.
      checkpoint: Written after every epoch; an interrupted call goes on from it. The order of the pictures and of
        random changes in tf.data begins anew then. It is left for the caller to delete. None keeps nothing.

    Returns:
      Keras's history of all phases, one value an epoch for every figure of `trainer_module.history`.

    Raises:
      TrainingDivergedError: If the loss becomes NaN.
    """
    checkpoint = checkpoint or CheckpointFile(None, key="")
    saved = checkpoint.read()
    records = History(run_dir, saved.state["rows"] if saved else None)
    if saved:
        logging.getLogger(PROGRESS_LOGGER).info("going on after epoch %d", len(records.rows))

    phases = _phases(options)
    names = [phase.name for phase in phases]
    task = tasks.of(options)
    loss = task.loss(options, train_data)
    train_data = task.weighted(train_data, options)
    for index in range(names.index(saved.state["phase"]) if saved else 0, len(phases)):
        phase, earlier = phases[index], set(names[:index])
        if saved and saved.arrays["before"]:
            model.set_weights(saved.arrays["before"])
        before = model.get_weights() if earlier else []
        if phase.name == FINE_TUNING:
            models.get(options.model.name).unfreeze(model, options.fine_tuning.unfreeze_layers)
        prepared = _prepared(model, options, phase, train_data, validation_data, run_dir)
        _fit(*prepared, options, phase, loss, int(train_data.cardinality()), records, checkpoint, saved, before)
        saved = None
        if before and records.lowest_loss(earlier) <= records.lowest_loss({phase.name}):
            model.set_weights(before)  # the phase made nothing better
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
    run_dir: str,
) -> tuple[keras.Model, tf.data.Dataset, tf.data.Dataset]:
    """What is fitted in a phase, and its two data sets: the model with augmentation, or its head on kept features.

    Only vectors are kept: the maps that a decoder reads would be many times as large as the pictures.
    """
    fitted, changed = tasks.of(options).augmented(model, train_data, options)
    is_augmented = fitted is not model or changed is not train_data
    if phase.name != HEAD or is_augmented or options.model.task != "classification":
        return fitted, changed, validation_data

    pooled = model.get_layer(features.POOLED_LAYER).output
    encoder = keras.Model(model.input, pooled, name="encoder")
    head = keras.Model(pooled, model.output, name="head")  # shares its layers with the model

    def encoded(data: tf.data.Dataset, split: str, shuffle_seed: int | None = None) -> tf.data.Dataset:
        return frozen_features(
            encoder,
            data,
            batch_size=options.training.batch_size,
            cache_path=os.path.join(run_dir, "cache", f"features-{split}"),
            shuffle_seed=shuffle_seed,
        )

    return (
        head,
        encoded(train_data, features.TRAIN, options.training.seed),
        encoded(validation_data, features.VALIDATION),
    )


def _fit(
    fitted: keras.Model,
    train_data: tf.data.Dataset,
    validation_data: tf.data.Dataset,
    options: TrainerOptions,
    phase: _Phase,
    loss: keras.losses.Loss,
    steps_per_epoch: int,
    records: History,
    checkpoint: CheckpointFile,
    saved: Checkpoint | None,
    before: list[np.ndarray],
) -> None:
    """One phase; it ends with the weights of its best epoch."""
    training = options.training
    optimizer = optimizers.make(
        training,
        learning_rate=phase.learning_rate,
        epochs=phase.epochs,
        steps_per_epoch=steps_per_epoch,
        weights=fitted.trainable_variables,
    )
    optimizer.build(fitted.trainable_variables)
    # Loss scaling is the optimizer's here, whatever the policy of the layers in front of the model.
    fitted.compile(optimizer, loss, metrics=tasks.of(options).metrics(options), auto_scale_loss=False)
    done = saved.state["epochs"] if saved else 0
    if saved:
        for variable, value in zip(_variables(fitted), saved.arrays["variables"], strict=True):
            variable.assign(value)
        if saved.state["stopped"] or done == phase.epochs:
            fitted.set_weights(saved.arrays["best"])
            return

    stopping = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=training.early_stopping_patience or phase.epochs, restore_best_weights=True
    )
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="val_loss", factor=training.plateau_factor, patience=training.plateau_patience
    )
    # Under a strategy the batches are divided anew, in threads that the clock does not see.
    wait = None if tf.distribute.has_strategy() else DataWait()
    distribution.prepare(fitted, train_data)
    callbacks = [
        _StopOnNan(),
        stopping,
        *([plateau] if training.schedule == "plateau" else []),
        _Recorder(records, phase, len(records.rows) - done, wait),
        _Keeper(checkpoint, records, phase, before, stopping, plateau, saved),
    ]
    with fused(fitted):
        fitted.fit(
            wait.measured(train_data) if wait else distribution.divided(train_data),
            validation_data=distribution.divided(validation_data),
            initial_epoch=done,
            epochs=phase.epochs,
            callbacks=callbacks,
            shuffle=False,  # the data come shuffled
            verbose=0,
        )


def _variables(fitted: keras.Model) -> list[keras.Variable]:
    """All that an epoch changes: weights, states of random generators and of the optimizer."""
    return [*fitted.variables, *fitted.optimizer.variables]
