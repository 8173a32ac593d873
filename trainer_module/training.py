"""Finds the weights: compile, fit, keep the best; in two phases where the base is pre-trained."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer_module import features, models, tasks
from trainer_module.frozen_features import frozen_features
from trainer_module.options import TrainerOptions

# One line an epoch for whoever watches the run; the command shows it beside the running node.
PROGRESS_LOGGER = "tfx_vision.progress"

# Names of the phases, in the column `phase` of the history.
WHOLE, HEAD, FINE_TUNING = "whole", "head", "fine_tuning"


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number; no model is exported."""


class _Phase(keras.callbacks.Callback):
    """Names the phase among the figures of every epoch, for the callbacks after it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["phase"] = self._name


class _EpochReport(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Figures of single classes (`iou/road`) would hide the others; they are in the history.
        left_out = ("learning_rate", "phase")
        shown = {name: value for name, value in (logs or {}).items() if name not in left_out and "/" not in name}
        figures = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        logging.getLogger(PROGRESS_LOGGER).info("epoch %d/%d  %s", epoch + 1, self.params["epochs"], figures)


class _StopOnNan(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if loss != loss:
            raise TrainingDivergedError(
                f"The training loss became NaN in step {batch + 1}. "
                "Lower `training.learning_rate` (for example by a factor of ten) and run again."
            )


def train(
    model: keras.Model,
    options: TrainerOptions,
    *,
    train_data: tf.data.Dataset,
    validation_data: tf.data.Dataset,
    run_dir: str,
) -> keras.callbacks.History:
    """Compiles and fits; the model ends with the weights of the epoch whose validation loss was lowest.

    A model with a pre-trained base is trained in two phases: its head with the base frozen, then, if
    `fine_tuning.epochs` says so, the last layers of the base too, at a rate of their own. As long as the base is frozen
    and no augmentation is asked for, the base sees every picture once, not once an epoch.

    Args:
      model: From pixels to logits.
      options: `training`, `fine_tuning`, `augmentation`, `model` and what the task reads.
      train_data: (uint8 [n, h, w, c], label) batches, shuffled; the label as the task's `read_label` gives it.
      validation_data: The same, in any order.
      run_dir: Receives `history.csv`, whose epochs go on from phase to phase; `cache/` in it is used while training.

    Returns:
      Keras's history of all phases, one value an epoch for every figure.

    Raises:
      TrainingDivergedError: If the loss becomes NaN.
    """
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    history_path = Path(run_dir) / features.HISTORY_FILE
    history_path.unlink(missing_ok=True)  # phases are appended
    tuning, task = options.fine_tuning, tasks.of(options)
    fitted, changed = task.augmented(model, train_data, options)
    loss = task.loss(options, train_data)
    if not options.model.begins_frozen():
        return _fit(fitted, changed, options, validation_data, history_path, phase=WHOLE, loss=loss)

    # Where nothing is augmented; the maps that a decoder reads are too large to keep.
    if fitted is model and changed is train_data and options.model.task == "classification":
        history = _fit_head(model, options, train_data, validation_data, history_path)
    else:
        history = _fit(fitted, changed, options, validation_data, history_path, phase=HEAD, loss=loss)
    if tuning.epochs == 0:
        return history

    best_loss, best_weights = min(history.history["val_loss"]), model.get_weights()
    models.get(options.model.name).unfreeze(model, tuning.unfreeze_layers)
    fitted, changed = task.augmented(model, train_data, options)
    tuned = _fit(
        fitted,
        changed,
        options,
        validation_data,
        history_path,
        phase=FINE_TUNING,
        loss=loss,
        first_epoch=len(history.epoch),
    )
    if not min(tuned.history["val_loss"]) < best_loss:
        model.set_weights(best_weights)  # fine-tuning made nothing better
    history.epoch.extend(tuned.epoch)
    for name, values in tuned.history.items():
        history.history[name].extend(values)
    return history


def _fit_head(
    model: keras.Model,
    options: TrainerOptions,
    train_data: tf.data.Dataset,
    validation_data: tf.data.Dataset,
    history_path: Path,
) -> keras.callbacks.History:
    pooled = model.get_layer(features.POOLED_LAYER).output
    encoder = keras.Model(model.input, pooled, name="encoder")
    head = keras.Model(pooled, model.output, name="head")  # shares its layers with the model

    def encoded(data: tf.data.Dataset, split: str, shuffle_seed: int | None = None) -> tf.data.Dataset:
        return frozen_features(
            encoder,
            data,
            batch_size=options.training.batch_size,
            cache_path=os.path.join(history_path.parent, "cache", f"features-{split}"),
            shuffle_seed=shuffle_seed,
        )

    return _fit(
        head,
        encoded(train_data, features.TRAIN, options.training.seed),
        options,
        encoded(validation_data, features.VALIDATION),
        history_path,
        phase=HEAD,
    )


def _fit(
    fitted: keras.Model,
    train_data: tf.data.Dataset,
    options: TrainerOptions,
    validation_data: tf.data.Dataset,
    history_path: Path,
    *,
    phase: str,
    loss: keras.losses.Loss | None = None,
    first_epoch: int = 0,
) -> keras.callbacks.History:
    training, task = options.training, tasks.of(options)
    tuning = options.fine_tuning if phase == FINE_TUNING else training
    fitted.compile(
        optimizer=keras.optimizers.Adam(tuning.learning_rate),
        loss=loss or task.loss(options),
        metrics=task.metrics(options),
    )
    callbacks = [
        _StopOnNan(),
        _Phase(phase),
        keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=training.early_stopping_patience, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau(
            monitor="val_loss", factor=training.plateau_factor, patience=training.plateau_patience
        ),
        keras.callbacks.CSVLogger(str(history_path), append=True),
        _EpochReport(),
    ]
    return fitted.fit(
        train_data,
        validation_data=validation_data,
        initial_epoch=first_epoch,
        epochs=first_epoch + tuning.epochs,
        callbacks=callbacks,
        shuffle=False,  # the data come shuffled
        verbose=0,
    )
