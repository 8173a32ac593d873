"""Searches for better numbers: short trainings, one after another, compared by a figure of the validation split."""

from __future__ import annotations

import csv
import logging
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import keras
import keras_tuner
import tensorflow as tf
from keras_tuner import errors
from keras_tuner.engine import base_tuner
from keras_tuner.engine import trial as trials
from pydantic import ValidationError

from trainer_module import fitting, search_space
from trainer_module.options import TrainerOptions
from trainer_module.search_space import Number, TunerOptions
from trainer_module.training import PROGRESS_LOGGER, TrainingDivergedError

COMPLETE, FAILED = "complete", "failed"


class NoTrialSucceededError(RuntimeError):
    """There is nothing to choose from."""


class TrialResult(NamedTuple):
    """A row of the table of trials.

    Attributes:
      trial: Number, from 1, in the order in which they ran.
      rank: 1 is the best; None for a failed trial.
      state: `complete` or `failed`.
      epochs: At most, in each phase.
      seconds: Wall time.
      objective: What is compared.
      value: Of the objective, with the weights that the training ended with; None for a failed trial.
      values: The tuned fields' values, by name.
    """

    trial: int
    rank: int | None
    state: str
    epochs: int
    seconds: float
    objective: str
    value: float | None
    values: dict[str, Number]


class Search(base_tuner.BaseTuner):
    """A KerasTuner search whose trials are trainings as Trainer's, with fewer epochs.

    A trial whose loss becomes NaN, or whose batches do not fit in memory, has failed, and the next one follows. Any
    other error ends the search. Hyperband's later rounds train anew, with more epochs, so that every trial is a whole
    training with its own schedule; that costs at most half as much again.

    Reference: Bergstra & Bengio 2012, https://jmlr.org/papers/v13/bergstra12a.html (random search); Snoek et al. 2012,
    https://arxiv.org/abs/1206.2944, section 2 (Gaussian processes); Li et al. 2018,
    https://jmlr.org/papers/v18/16-558.html, algorithm 1 (Hyperband).
    """

    def __init__(
        self, options: TrainerOptions, tuner: TunerOptions, pictures: fitting.Pictures, directory: str
    ) -> None:
        """Prepares the search; nothing is trained yet.

        Args:
          options: The configuration on which the values are tried; its seed is the search's too.
          tuner: What is tried, and how often.
          pictures: What every trial is fitted on; read once.
          directory: A local folder for what is written while searching.
        """
        self._options, self._tuner, self._pictures = options, tuner, pictures
        self._scratch = Path(directory)
        self._seconds: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        super().__init__(_oracle(options, tuner), directory=directory, project_name="search", overwrite=True)
        self.oracle.verbose = 0

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Runs the trials.

        Raises:
          NoTrialSucceededError: If all of them failed.
        """
        for split in (self._pictures.train, self._pictures.validation):
            # Kept from here on: no trial waits for the decoder, and one that breaks off leaves nothing half kept.
            split.reduce(0, lambda count, *_: count + 1)
        super().search(*fit_args, **fit_kwargs)
        if not any(result.state == COMPLETE for result in self.results()):
            first = next(iter(self._failures.values()))
            raise NoTrialSucceededError(f"All {len(self._failures)} trials failed. The first: {first}")

    def on_trial_begin(self, trial: trials.Trial) -> None:
        """Keeps values in their ranges: Bayesian optimisation reaches the very end, where KerasTuner rounds beyond."""
        values = trial.hyperparameters.values
        for name, chosen in self._tuner.space.items():
            values[name] = chosen.limited(values[name])

    def run_trial(self, trial: trials.Trial, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        """Trains with the trial's values.

        Returns:
          The objective, in the epoch whose weights were kept: that of the lowest validation loss.

        Raises:
          FailedTrialError: If these values cannot be used.
          FatalRuntimeError: If anything else goes wrong; KerasTuner would take it for a failed trial.
        """
        run_dir = self._scratch / "trial"
        start = time.monotonic()
        try:
            with _named(f"trial {_number(trial)}/{self._tuner.trials}  "):
                options = search_space.with_values(self._options, self._length_of(trial) | _values_of(trial))
                _, history = fitting.fit(options, self._pictures, str(run_dir))
            value = _kept_value(history, self._tuner.objective)
        except (TrainingDivergedError, ValidationError, tf.errors.ResourceExhaustedError) as error:
            self._failures[trial.trial_id] = str(error)
            raise errors.FailedTrialError(str(error)) from error
        except Exception as error:
            raise errors.FatalRuntimeError(f"Trial {_number(trial)}: {error}") from error
        finally:
            self._seconds[trial.trial_id] = time.monotonic() - start
            keras.utils.clear_session()  # frees the trial's network
            shutil.rmtree(run_dir, ignore_errors=True)
        return {self._tuner.objective: value}

    def on_trial_end(self, trial: trials.Trial) -> None:
        """Scores the trial, and says what came of it."""
        super().on_trial_end(trial)
        (result,) = [result for result in self.results() if result.trial == _number(trial)]
        shown = "failed" if result.value is None else f"{result.objective} {result.value:.4f}"
        values = "  ".join(
            f"{name.partition('.')[2]} {search_space.shown(value)}" for name, value in result.values.items()
        )
        logging.getLogger(PROGRESS_LOGGER).info(
            "trial %d/%d  %s  %s  %.1f s", result.trial, self._tuner.trials, shown, values, result.seconds
        )

    def results(self) -> list[TrialResult]:
        """What came of the trials so far, in their order."""
        ended = [self.oracle.trials[trial_id] for trial_id in self.oracle.end_order]
        complete = [trial for trial in ended if trial.status == trials.TrialStatus.COMPLETED]
        best_first = [trial.trial_id for trial in self.oracle.get_best_trials(len(complete))]
        return [
            TrialResult(
                trial=_number(trial),
                rank=best_first.index(trial.trial_id) + 1 if trial in complete else None,
                state=COMPLETE if trial in complete else FAILED,
                epochs=self._length_of(trial)["training.epochs"],
                seconds=round(self._seconds[trial.trial_id], 2),
                objective=self._tuner.objective,
                value=trial.score if trial in complete else None,
                values=_values_of(trial),
            )
            for trial in sorted(ended, key=_number)
        ]

    def _length_of(self, trial: trials.Trial) -> dict[str, int]:
        """The epochs of a trial: Hyperband decides round by round."""
        epochs = trial.hyperparameters.values.get("tuner/epochs", self._tuner.epochs)
        return search_space.trial_length(self._options, epochs)


def write_table(results: list[TrialResult], path: str) -> None:
    """Writes the trials as CSV, a column for every tuned field.

    Args:
      results: At least one.
      path: Local, or of any file system that TensorFlow knows.
    """
    rows = [{key: value for key, value in result._asdict().items() if key != "values"} for result in results]
    with tf.io.gfile.GFile(path, "w") as file:
        writer = csv.DictWriter(file, [*rows[0], *results[0].values], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | result.values for row, result in zip(rows, results, strict=True))


def _oracle(options: TrainerOptions, tuner: TunerOptions) -> keras_tuner.Oracle:
    kinds = search_space.numeric_fields(options)
    space = keras_tuner.HyperParameters()
    for name, chosen in tuner.space.items():
        kind, values = kinds[name], chosen.values()
        if values is not None:
            space.Choice(name, [kind(value) for value in values])
        else:
            new = space.Int if kind is int else space.Float
            new(name, *map(kind, chosen.bounds()), sampling=chosen.sampling)
    arguments = {
        "objective": keras_tuner.Objective(*search_space.objective(options.task.name, tuner.objective)),
        "hyperparameters": space,
        "allow_new_entries": False,
        "tune_new_entries": False,
        "seed": options.training.seed + 1,  # 0 would mean any
        "max_consecutive_failed_trials": tuner.trials + 1,  # the search goes on
    }
    if tuner.algorithm == "hyperband":
        oracle = keras_tuner.oracles.HyperbandOracle(
            max_epochs=search_space.longest_trial(options, tuner),
            factor=search_space.HYPERBAND_FACTOR,
            hyperband_iterations=0,  # brackets follow each other until the trials are used up
            **arguments,
        )
        oracle.max_trials = tuner.trials  # no argument of it, and TFX's executor needs it too
        return oracle
    if tuner.algorithm == "bayesian":
        return keras_tuner.oracles.BayesianOptimizationOracle(max_trials=tuner.trials, **arguments)
    return keras_tuner.oracles.RandomSearchOracle(max_trials=tuner.trials, **arguments)


def _kept_value(history: keras.callbacks.History, objective: str) -> float:
    losses = history.history["val_loss"]
    kept = losses.index(min(losses))
    value = float(history.history[objective][kept])
    if not math.isfinite(value):
        raise TrainingDivergedError(f"{objective} is {value} on the validation split.")
    return value


def _values_of(trial: trials.Trial) -> dict[str, Number]:
    return search_space.found_values({"values": trial.hyperparameters.values})


def _number(trial: trials.Trial) -> int:
    return int(trial.trial_id) + 1


@contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Puts the trial's number before what its epochs report."""

    def with_prefix(record: logging.LogRecord) -> bool:
        record.msg = f"{prefix}{record.msg}"
        return True

    logger = logging.getLogger(PROGRESS_LOGGER)
    logger.addFilter(with_prefix)
    try:
        yield
    finally:
        logger.removeFilter(with_prefix)
