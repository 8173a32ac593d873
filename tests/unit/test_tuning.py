"""The search of Tuner: trials are trainings, a failed trial does not end the search, results are reproducible."""

import csv
import dataclasses
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module import features, fitting, input_pipeline, search_space, tasks, training, tuning
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions
from trainer_module.search_space import TunerOptions
from trainer_module.tasks import classification

SIZE, COUNT = 8, 24
RATES = {"training.learning_rate": {"min": 1e-4, "max": 1e-1, "sampling": "log"}}


def options(**sections):
    return TrainerOptions(
        classes=("a", "b", "c"),
        transform={"image_size": SIZE},
        model={"name": "scratch_cnn", "blocks": [[4]]},
        task={"dense_units": 4},
        **({"training": {"batch_size": 6, "epochs": 5}} | sections),
    )


@pytest.fixture(scope="module")
def reads():
    return []


@pytest.fixture(scope="module")
def data(reads):
    random = np.random.default_rng(3)
    labels = np.arange(COUNT, dtype=np.int64) % 3
    images = random.integers(0, 80, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    images[np.arange(COUNT), :, :, labels] += 150

    def count(label):
        reads.append(int(label))
        return label

    def read(image, label):
        return image, tf.ensure_shape(tf.py_function(count, [label], tf.int64), [])

    examples = tf.data.Dataset.from_tensor_slices((images, labels)).map(read)
    cached = input_pipeline.cache_examples(examples, COUNT * SIZE * SIZE * 3, "").apply(
        tf.data.experimental.assert_cardinality(COUNT)
    )
    statistics = PixelStatistics(np.full(3, 100.0, np.float32), np.full(3, 2500.0, np.float32))
    return fitting.TrainingData(statistics, cached, cached)


@pytest.fixture
def search(data, tmp_path):
    def run(chosen_options=None, **tuner):
        chosen = TunerOptions(**({"trials": 2, "epochs": 1, "space": RATES} | tuner))
        result = tuning.Search(
            chosen_options or options(), chosen, data, str(tmp_path / str(len(list(tmp_path.iterdir()))))
        )
        result.search()
        return result

    return run


@pytest.fixture
def progress():
    """The messages of the progress logger."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger(features.PROGRESS_LOGGER)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture
def quick(monkeypatch):
    """Trials without training: a learning rate of 0.01 is the best; above `diverges` the training diverges."""
    tried = []

    def fit(options, data, run_dir, *, diverges=0.05):
        rate = options.training.learning_rate
        tried.append(options)
        if rate > diverges:
            raise training.TrainingDivergedError("The training loss became NaN in step 1.")
        history = keras.callbacks.History()
        loss = abs(np.log10(rate) + 2) + 1 / options.training.epochs
        history.history = {"val_loss": [9.0, loss, loss + 1], "val_accuracy": [0.9, 1 / (1 + loss), 0.8]}
        return None, history

    monkeypatch.setattr(fitting, "fit", fit)
    monkeypatch.setattr(keras.utils, "clear_session", lambda: None)  # takes half a second
    return tried


def values(search):
    return [result.values for result in search.results()]


def test_a_trial_is_a_training_like_that_of_trainer(search, data, tmp_path, reads, progress):
    reads.clear()
    finished = search(space={"training.batch_size": {"choices": [5, 24]}}, epochs=2, objective="val_accuracy")
    assert len(reads) == COUNT  # in all trials together
    results = finished.results()
    assert sorted(result.values["training.batch_size"] for result in results) == [5, 24]
    assert [line.split("  ")[:2] for line in progress] == [
        [f"trial {trial}/2", text]
        for trial, result in enumerate(results, start=1)
        for text in ("epoch 1/2", "epoch 2/2", f"val_accuracy {result.value:.4f}")
    ]
    assert f"  batch_size {results[0].values['training.batch_size']}  " in progress[2]
    best = finished.get_best_hyperparameters()[0].values
    assert best == next(result.values for result in results if result.rank == 1)
    tuned = search_space.replace_values(options(), best | {"training.epochs": 2})
    _, history = fitting.fit(tuned, data, str(tmp_path / "whole"))
    at_lowest_loss = history.history["val_accuracy"][int(np.argmin(history.history["val_loss"]))]
    assert max(result.value for result in results) == pytest.approx(at_lowest_loss)
    assert not list(tmp_path.glob("*/trial"))  # the folders of trials are deleted


@pytest.mark.parametrize(("algorithm", "trials"), [("random", 8), ("bayesian", 5), ("hyperband", 8)])
def test_the_search_is_reproducible(search, quick, algorithm, trials):
    chosen = {"algorithm": algorithm, "trials": trials, "epochs": 3}
    one, other = search(**chosen), search(**chosen)
    another = search(options(training={"seed": 0, "epochs": 5}), **chosen)
    assert [r._replace(seconds=0) for r in one.results()] == [r._replace(seconds=0) for r in other.results()]
    assert len(one.results()) == trials
    assert values(one) != values(another)
    # For KerasTuner 0 is a random seed.
    assert values(another) == values(search(options(training={"seed": 0, "epochs": 5}), **chosen))


def test_hyperband_gives_more_epochs_to_the_best(search, quick):
    space = {"training.learning_rate": {"min": 1e-4, "max": 0.04}}
    results = search(algorithm="hyperband", trials=5 + 2, epochs=5, space=space).results()
    assert [result.epochs for result in results] == [2] * 5 + [5] * 2
    assert [o.training.epochs for o in quick] == [result.epochs for result in results]
    assert results[5].values == min(results[:5], key=lambda result: result.value).values


def test_the_value_of_a_trial_is_that_of_its_best_epoch(search, quick):
    (result,) = search(
        objective="val_accuracy", space={"training.learning_rate": {"choices": [0.01]}}, trials=1
    ).results()
    assert result.value == pytest.approx(1 / 2)  # not 0.9 as in the first epoch


def test_a_diverged_trial_fails_and_the_next_one_runs(search, quick, progress):
    space = {"training.learning_rate": {"choices": [0.01, 0.1, 0.2, 0.3, 0.4, 0.001]}}
    results = search(space=space, trials=6).results()
    by_rate = {result.values["training.learning_rate"]: result for result in results}
    assert {rate: result.rank for rate, result in by_rate.items()} == {
        0.01: 1,
        0.001: 2,
        0.1: None,
        0.2: None,
        0.3: None,
        0.4: None,
    }
    failed = by_rate[0.4]
    assert (failed.state, failed.value) == ("failed", None)
    assert f"trial {failed.trial}/6  failed  learning_rate 0.4" in "\n".join(progress)


def test_a_diverged_training_is_a_failed_trial(search, eagerly):
    space = {"training.learning_rate": {"choices": [1e-3, 10.0]}}

    def nan_loss(options, train_data=None):
        rate = options.training.learning_rate
        return lambda truth, logits: tf.reduce_mean(logits) * (np.nan if rate > 1 else 1.0)

    with pytest.MonkeyPatch.context() as patch, eagerly():
        patch.setattr(classification, "TASK", dataclasses.replace(classification.TASK, loss=nan_loss))
        results = search(space=space).results()
    assert {r.values["training.learning_rate"]: r.state for r in results} == {1e-3: "complete", 10.0: "failed"}


def too_large(*_):
    raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")


def without_metrics(*_):
    history = keras.callbacks.History()
    history.history = {"val_loss": [float("nan")] * 2}
    return None, history


@pytest.mark.parametrize(("fit", "reason"), [(too_large, "OOM"), (without_metrics, "val_loss is nan on the valid")])
def test_other_reasons_of_a_failed_trial(search, quick, monkeypatch, fit, reason):
    monkeypatch.setattr(fitting, "fit", fit)
    with pytest.raises(tuning.NoTrialSucceededError, match=f"All 2 trials failed. The first error: .*{reason}"):
        search()


def test_if_all_trials_fail_the_error_has_the_reason(search, quick):
    with pytest.raises(
        tuning.NoTrialSucceededError, match=r"All 2 trials failed\. The first error: The training loss became NaN"
    ):
        search(space={"training.learning_rate": {"min": 0.1, "max": 1}})


def test_invalid_values_are_a_failed_trial(search, quick):
    space = {"task.dropout": {"min": 1.0, "max": 2.0}}
    with pytest.raises(tuning.NoTrialSucceededError, match="less than 1"):
        search(space=space)


def test_any_other_error_ends_the_search(search, monkeypatch):
    def broken(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(fitting, "fit", broken)
    with pytest.raises(RuntimeError, match="Trial 1: No space left on device"):
        search()


def test_values_beyond_the_end_of_a_range_are_clipped(search, quick):
    finished = search(trials=1, space={"training.batch_size": {"min": 2, "max": 9, "sampling": "log"}})
    trial = finished.oracle.trials["0"]
    trial.hyperparameters.values["training.batch_size"] = 10  # KerasTuner's value for probability 1
    finished.on_trial_begin(trial)
    assert trial.hyperparameters.values == {"training.batch_size": 9}


def test_integers_are_logged_with_all_digits(search, quick, progress):
    search(trials=1, space={"training.batch_size": {"choices": [65535]}})
    assert "  batch_size 65535  " in progress[-1]


def test_the_table_of_trials(search, quick, tmp_path):
    space = {"training.learning_rate": {"choices": [0.01, 0.1]}, "task.dense_units": {"choices": [3]}}
    tuning.write_table(search(space=space).results(), str(tmp_path / "trials.csv"))
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["rank"], reverse=True)
    assert [(row["rank"], row["state"], row["training.learning_rate"], row["task.dense_units"]) for row in rows] == [
        ("1", "complete", "0.01", "3"),
        ("", "failed", "0.1", "3"),
    ]
    assert {row["objective"] for row in rows} == {"val_loss"}
    assert float(rows[0]["value"]) == pytest.approx(1.0)


@pytest.mark.parametrize("task", tasks.names())
def test_objectives_are_metrics_of_the_task(task):
    chosen = TrainerOptions(classes=("a", "b"), model={"name": "scratch_cnn"}, task={"name": task})
    columns = {"val_loss"}
    for metric in tasks.get(task).training_metrics(chosen):
        result = metric.result()
        names = result if isinstance(result, dict) else [metric.name]
        columns |= {f"val_{name}" for name in names if "/" not in name}
    assert {entry.name for entry in tasks.get(task).objectives} == columns
