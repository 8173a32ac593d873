"""Finds the weights: compile, fit, keep the best."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer_module import features, tasks
from trainer_module.options import TrainerOptions

# One line an epoch for whoever watches the run; the command shows it beside the running node.
PROGRESS_LOGGER = "tfx_vision.progress"


class TrainingDivergedError(RuntimeError):
    """The loss is no longer a number; no model is exported."""


class _EpochReport(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Figures of single classes (`iou/road`) would hide the others; they are in the history.
        shown = {name: value for name, value in (logs or {}).items() if name != "learning_rate" and "/" not in name}
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

    Args:
      model: From pixels to logits.
      options: `training`, `augmentation` and what the task reads.
      train_data: (uint8 [n, h, w, c], label) batches, shuffled; the label as the task's `read_label` gives it.
      validation_data: The same, in any order.
      run_dir: Receives `history.csv`.

    Returns:
      Keras's history, one value an epoch for every figure.

    Raises:
      TrainingDivergedError: If the loss becomes NaN.
    """
    training = options.training
    task = tasks.of(options)
    loss = task.loss(options, train_data)
    fitted, train_data = task.augmented(model, train_data, options)
    fitted.compile(
        optimizer=keras.optimizers.Adam(training.learning_rate),
        loss=loss,
        metrics=task.metrics(options),
    )
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    callbacks = [
        _StopOnNan(),
        keras.callbacks.EarlyStopping(
            monitor="val_loss", patience=training.early_stopping_patience, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau(
            monitor="val_loss", factor=training.plateau_factor, patience=training.plateau_patience
        ),
        keras.callbacks.CSVLogger(str(Path(run_dir) / features.HISTORY_FILE)),
        _EpochReport(),
    ]
    return fitted.fit(
        train_data,
        validation_data=validation_data,
        epochs=training.epochs,
        callbacks=callbacks,
        shuffle=False,  # the data come shuffled
        verbose=0,
    )
