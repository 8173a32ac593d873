"""Searches for better hyperparameters: short trainings in sequence, compared by a validation metric."""

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

from trainer_module import features, fitting, search_space
from trainer_module.options import TrainerOptions
from trainer_module.search_space import Number, TunerOptions
from trainer_module.training import TrainingDivergedError

COMPLETE, FAILED = "complete", "failed"


class NoTrialSucceededError(RuntimeError):
    """All trials failed."""


class TrialResult(NamedTuple):
    """A row of the table of trials.

    Attributes:
      trial: Number, from 1, in the order in which they ran.
      rank: 1 is the best; None for a failed trial.
      state: `complete` or `failed`.
      epochs: Maximum number of epochs of each phase.
      seconds: Wall time.
      objective: Name of the objective.
      value: The objective of the epoch whose weights a training keeps; None for a failed trial.
      values: Values of the tuned fields, by name.
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
    """A KerasTuner search whose trials are trainings like Trainer's, with fewer epochs.

    A trial fails if its loss becomes NaN or its batches do not fit in memory; the search continues with the next one.
    Any other error ends the search. Hyperband's later rounds train from the beginning, with more epochs, so every trial
    is a complete training with its own schedule; this costs at most 50 % more.

    Reference: Bergstra & Bengio 2012, https://jmlr.org/papers/v13/bergstra12a.html (random search); Snoek et al. 2012,
    https://arxiv.org/abs/1206.2944, section 2 (Gaussian processes); Li et al. 2018,
    https://jmlr.org/papers/v18/16-558.html, algorithm 1 (Hyperband).
    """

    def __init__(
        self, options: TrainerOptions, tuner: TunerOptions, data: fitting.TrainingData, directory: str
    ) -> None:
        """Prepares the search without training.

        Args:
          options: The configuration whose values are varied; its seed is also that of the search.
          tuner: Algorithm, values to try, number of trials.
          data: The data of every trial; decoded once.
          directory: A local folder for temporary files.
        """
        self._options, self._tuner, self._data = options, tuner, data
        self._scratch = Path(directory)
        self._seconds: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        super().__init__(_oracle(options, tuner), directory=directory, project_name="search", overwrite=True)
        self.oracle.verbose = 0

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Runs the trials.

        Raises:
          NoTrialSucceededError: If all trials fail.
        """
        for split in (self._data.train, self._data.validation):
            # Fills the caches: no trial waits for decoding, and no trial can leave a partly filled cache.
            split.reduce(0, lambda count, *_: count + 1)
        super().search(*fit_args, **fit_kwargs)
        if not any(result.state == COMPLETE for result in self.results()):
            first = next(iter(self._failures.values()))
            raise NoTrialSucceededError(f"All {len(self._failures)} trials failed. The first error: {first}")

    def on_trial_begin(self, trial: trials.Trial) -> None:
        """Clips values to their ranges: at the end of a range KerasTuner's Bayesian optimisation rounds beyond it."""
        values = trial.hyperparameters.values
        for name, value_range in self._tuner.space.items():
            values[name] = value_range.clip(values[name])

    def run_trial(self, trial: trials.Trial, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        """Trains with the trial's values.

        Returns:
          The objective in the epoch whose weights a training keeps, see `training.kept_epoch`.

        Raises:
          FailedTrialError: If training with these values fails.
          FatalRuntimeError: If anything else fails; KerasTuner would count another error as a failed trial.
        """
        run_dir = self._scratch / "trial"
        start = time.monotonic()
        try:
            with _log_prefix(f"trial {_number(trial)}/{self._tuner.trials}  "):
                options = search_space.replace_values(self._options, self._epochs(trial) | _tuned_values(trial))
                _, history = fitting.fit(options, self._data, str(run_dir))
            value = _kept_value(history, self._tuner.objective, options.training.kept_epoch)
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
        """Scores the trial and logs its result."""
        super().on_trial_end(trial)
        (result,) = [result for result in self.results() if result.trial == _number(trial)]
        score = "failed" if result.value is None else f"{result.objective} {result.value:.4f}"
        values = "  ".join(
            f"{name.partition('.')[2]} {search_space.format_number(value)}" for name, value in result.values.items()
        )
        logging.getLogger(features.PROGRESS_LOGGER).info(
            "trial %d/%d  %s  %s  %.1f s", result.trial, self._tuner.trials, score, values, result.seconds
        )

    def results(self) -> list[TrialResult]:
        """Returns the results of the trials so far, in their order."""
        ended = [self.oracle.trials[trial_id] for trial_id in self.oracle.end_order]
        complete = [trial for trial in ended if trial.status == trials.TrialStatus.COMPLETED]
        best_first = [trial.trial_id for trial in self.oracle.get_best_trials(len(complete))]
        return [
            TrialResult(
                trial=_number(trial),
                rank=best_first.index(trial.trial_id) + 1 if trial in complete else None,
                state=COMPLETE if trial in complete else FAILED,
                epochs=self._epochs(trial)["training.epochs"],
                seconds=round(self._seconds[trial.trial_id], 2),
                objective=self._tuner.objective,
                value=trial.score if trial in complete else None,
                values=_tuned_values(trial),
            )
            for trial in sorted(ended, key=_number)
        ]

    def _epochs(self, trial: trials.Trial) -> dict[str, int]:
        """Returns the epochs of a trial's phases; Hyperband sets them round by round."""
        epochs = trial.hyperparameters.values.get("tuner/epochs", self._tuner.epochs)
        return search_space.trial_epochs(self._options, epochs)


def write_table(results: list[TrialResult], path: str) -> None:
    """Writes the trials as CSV, with one column per tuned field.

    Args:
      results: One or more results.
      path: On any file system of TensorFlow.
    """
    rows = [{key: value for key, value in result._asdict().items() if key != "values"} for result in results]
    with tf.io.gfile.GFile(path, "w") as file:
        writer = csv.DictWriter(file, [*rows[0], *results[0].values], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | result.values for row, result in zip(rows, results, strict=True))


def _oracle(options: TrainerOptions, tuner: TunerOptions) -> keras_tuner.Oracle:
    number_types = search_space.numeric_fields(options)
    space = keras_tuner.HyperParameters()
    for name, value_range in tuner.space.items():
        number_type, values = number_types[name], value_range.values()
        if values is not None:
            space.Choice(name, [number_type(value) for value in values])
        else:
            add = space.Int if number_type is int else space.Float
            add(name, *map(number_type, value_range.bounds()), sampling=value_range.sampling)
    arguments = {
        "objective": keras_tuner.Objective(*search_space.objective(options.task.name, tuner.objective)),
        "hyperparameters": space,
        "allow_new_entries": False,
        "tune_new_entries": False,
        "seed": options.training.seed + 1,  # 0 would mean a random seed
        "max_consecutive_failed_trials": tuner.trials + 1,  # never ends the search
    }
    if tuner.algorithm == "hyperband":
        oracle = keras_tuner.oracles.HyperbandOracle(
            max_epochs=search_space.max_trial_epochs(options, tuner),
            factor=search_space.HYPERBAND_FACTOR,
            hyperband_iterations=0,  # repeats its brackets until all trials are used
            **arguments,
        )
        oracle.max_trials = tuner.trials  # not an argument, and TFX's executor reads it
        return oracle
    if tuner.algorithm == "bayesian":
        return keras_tuner.oracles.BayesianOptimizationOracle(max_trials=tuner.trials, **arguments)
    return keras_tuner.oracles.RandomSearchOracle(max_trials=tuner.trials, **arguments)


def _kept_value(history: keras.callbacks.History, objective: str, kept_epoch: str) -> float:
    losses = history.history["val_loss"]
    epoch = losses.index(min(losses)) if kept_epoch == "best" else -1
    value = float(history.history[objective][epoch])
    if not math.isfinite(value):
        raise TrainingDivergedError(f"{objective} is {value} on the validation split.")
    return value


def _tuned_values(trial: trials.Trial) -> dict[str, Number]:
    return search_space.tuned_values({"values": trial.hyperparameters.values})


def _number(trial: trials.Trial) -> int:
    return int(trial.trial_id) + 1


@contextmanager
def _log_prefix(prefix: str) -> Iterator[None]:
    """Puts a prefix before the log messages of the epochs."""

    def add_prefix(record: logging.LogRecord) -> bool:
        record.msg = f"{prefix}{record.msg}"
        return True

    logger = logging.getLogger(features.PROGRESS_LOGGER)
    logger.addFilter(add_prefix)
    try:
        yield
    finally:
        logger.removeFilter(add_prefix)
