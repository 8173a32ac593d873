"""Ranges, and configurations with replaced values."""

import pytest
from pydantic import ValidationError

from trainer_module import search_space
from trainer_module.options import TrainerOptions
from trainer_module.search_space import Range, TunerOptions


def options(**sections):
    return TrainerOptions(classes=("a", "b"), **({"model": {"name": "scratch_cnn"}} | sections))


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ({"min": 0.2, "max": 0.6, "step": 0.1}, (0.2, 0.3, 0.4, 0.5, 0.6)),
        ({"min": 0.1, "max": 0.75, "step": 0.1}, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
        ({"min": 16, "max": 128, "step": 2, "sampling": "log"}, (16, 32, 64, 128)),
        ({"min": 1e-4, "max": 1e-1, "step": 10, "sampling": "log"}, (1e-4, 1e-3, 1e-2, 1e-1)),
        ({"choices": [64, 32]}, (64, 32)),
        ({"min": 1, "max": 3}, None),
    ],
)
def test_values_of_a_range(table, values):
    result = Range(**table).values()
    assert result == values
    assert [type(value) for value in result or ()] == [type(value) for value in values or ()]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "requires min and max, or choices"),
        ({"min": 1}, "requires min and max, or choices"),
        ({"min": 2, "max": 2}, r"min must be below max \(given: 2 and 2\)"),
        ({"min": 0, "max": 1, "sampling": "log"}, "requires min above 0"),
        ({"min": 1, "max": 8, "step": 1, "sampling": "log"}, "step is a factor and must be above 1"),
        ({"min": 0, "max": 1, "step": 1e-4}, "more than 1000 values"),
        ({"choices": [1], "max": 3}, "choices excludes min, max, step and sampling"),
        ({"choices": [1], "sampling": "log"}, "choices excludes min, max, step and sampling"),
    ],
)
def test_an_ambiguous_range_is_rejected(table, message):
    with pytest.raises(ValidationError, match=message):
        Range(**table)


def test_values_are_clipped_to_their_bounds():
    chosen = Range(min=2, max=5, sampling="log")
    assert [chosen.clip(value) for value in (1, 2, 4, 6)] == [2, 2, 4, 5]


@pytest.mark.parametrize("epochs", [3, 5, 9, 20, 26, 27, 81])
def test_the_first_bracket_of_hyperband_equals_that_of_kerastuner(epochs):
    import keras_tuner

    oracle = keras_tuner.oracles.HyperbandOracle("val_loss", max_epochs=epochs)
    bracket = oracle._get_num_brackets() - 1
    expected = [(oracle._get_size(bracket, index), oracle._get_epochs(bracket, index)) for index in range(bracket + 1)]
    assert search_space.hyperband_rounds(epochs) == expected
    tuner = TunerOptions(algorithm="hyperband", epochs=99)
    all_epochs = [oracle._get_epochs(b, index) for b in range(bracket + 1) for index in range(b + 1)]
    assert search_space.min_trial_epochs(options(training={"epochs": epochs}), tuner) == min(all_epochs)


@pytest.mark.parametrize(("epochs", "longer"), [(3, 3), (20, 20), (9, 81)])
def test_hyperband_requires_the_trials_of_its_first_bracket(epochs, longer):
    required = sum(one_round.trials for one_round in search_space.hyperband_rounds(epochs))
    for in_training, in_trial in ((epochs, longer), (longer, epochs)):
        chosen = options(training={"epochs": in_training})
        enough = TunerOptions(algorithm="hyperband", epochs=in_trial, trials=required)
        search_space.check_hyperband(chosen, enough)
        with pytest.raises(ValueError, match=f"requires tuner.trials = {required} or more"):
            search_space.check_hyperband(chosen, enough.model_copy(update={"trials": required - 1}))


def test_names_may_be_quoted_or_nested():
    quoted = TunerOptions(space={"task.dropout": {"min": 0.1, "max": 0.2}})
    assert TunerOptions(space={"task": {"dropout": {"min": 0.1, "max": 0.2}}}) == quoted
    assert TunerOptions.model_validate_json(quoted.model_dump_json()) == quoted


def test_every_number_except_length_and_seed_can_be_tuned():
    number_types = search_space.numeric_fields(options())
    assert number_types["training.batch_size"] is int
    assert number_types["augmentation.rotation"] is float
    assert number_types["task.dense_units"] is int
    assert not {"model.blocks", "augmentation.horizontal_flip", "model.name"} & set(number_types)
    assert not set(search_space.NOT_TUNED) & set(number_types)
    for name in search_space.NOT_TUNED:  # all of them exist
        section, key = name.split(".")
        assert isinstance(getattr(getattr(options(), section), key), int)


def test_every_condition_belongs_to_a_field():
    encoded = options(
        task={"name": "segmentation"},
        model={"name": "unet", "encoder": "mobilenet_v2"},
        transform={"normalization": "backbone"},
    )
    for key in search_space._CONDITIONS:
        assert any(name.startswith(key) for name in search_space.numeric_fields(encoded)), key


@pytest.mark.parametrize(
    ("value", "text"), [(65535, "65535"), (10, "10"), (0.000123456, "0.0001235"), (1.0, "1"), (65535.0, "6.554e+04")]
)
def test_numbers_are_formatted(value, text):
    assert search_space.format_number(value) == text


def test_replaced_values_are_validated():
    replaced = search_space.replace_values(options(), {"training.learning_rate": 0.5, "task.dense_units": 7})
    assert (replaced.training.learning_rate, replaced.task.dense_units) == (0.5, 7)
    assert replaced.model_copy(update={"training": options().training, "task": options().task}) == options()
    with pytest.raises(ValidationError, match="less than 1"):
        search_space.replace_values(options(), {"task.dropout": 1.0})
    with pytest.raises(ValidationError, match="no backbone that starts frozen"):
        search_space.replace_values(options(), {"fine_tuning.epochs": 1})


def test_a_trial_is_never_longer_than_the_training():
    chosen = options(training={"epochs": 4})
    assert search_space.trial_epochs(chosen, 9) == {"training.epochs": 4, "fine_tuning.epochs": 0}
    assert search_space.trial_epochs(chosen, 2)["training.epochs"] == 2


def test_tuned_values_exclude_the_counters_of_hyperband():
    values = {"training.learning_rate": 0.1, "tuner/epochs": 3, "tuner/trial_id": "0001"}
    assert search_space.tuned_values({"space": [], "values": values}) == {"training.learning_rate": 0.1}
