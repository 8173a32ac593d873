"""The gate before Pusher: a good export passes, every planted fault is refused."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.serving_validator import checks, executor
from trainer_module.options import TrainerOptions
from trainer_module.tasks import classification


def validate(export_dir, tiny_model, **changes):
    arguments = {
        "model": tiny_model.model,
        "options": tiny_model.options,
        "serialized_examples": tiny_model.examples,
        "tolerance": 1e-4,
    } | changes
    return checks.validate(str(export_dir), **arguments)


def failures(results):
    return {check.name: check.detail for check in results if not check.passed}


def test_a_good_export_passes_every_check(tiny_model):
    results = validate(tiny_model.serving_dir, tiny_model)
    assert failures(results) == {}
    assert len(results) == 6


def test_what_a_search_changes_is_not_asked_for(tiny_model, other_numbers):
    # The component is given the configuration as it was before the search.
    results = validate(tiny_model.serving_dir, tiny_model, options=other_numbers)
    assert results == validate(tiny_model.serving_dir, tiny_model)


def test_a_model_exported_the_wrong_way_is_refused(tiny_model, tmp_path):
    # The whole set of signatures, saved as TFX's own examples save a model: tf.saved_model.load takes it, and answers.
    options = tiny_model.options
    endpoints = classification.endpoints(tiny_model.model, options, tft_layer=None, raw_feature_spec={})
    del endpoints["transform_features"]
    signatures = {
        name: tf.function(endpoint.compute, input_signature=endpoint.inputs) for name, endpoint in endpoints.items()
    }
    wrong = str(tmp_path / "wrong")
    tf.saved_model.save(tiny_model.model, wrong, signatures=signatures)
    loaded = tf.saved_model.load(wrong).signatures["serving_default"]
    answer = loaded(image_bytes=tf.constant(tiny_model.image_bytes))["probabilities"]
    expected = classification.expected(tiny_model.model, options, tiny_model.image_bytes)
    np.testing.assert_allclose(answer, expected, atol=1e-5)

    found = failures(validate(wrong, tiny_model))
    assert "serving_default agrees with the Keras model" in found
    assert "Could not find variable" in found["serving_default agrees with the Keras model"]


def test_other_weights_are_refused(tiny_model):
    other = keras.models.clone_model(tiny_model.model)
    found = failures(validate(tiny_model.serving_dir, tiny_model, model=other))
    assert set(found) == {"serving_default agrees with the Keras model", "examples agrees with the Keras model"}
    assert "largest difference of a probability" in found["examples agrees with the Keras model"]


def test_exchanged_labels_are_refused(tiny_model):
    exchanged = tiny_model.options.model_copy(update={"classes": ("green", "blue", "red")})
    found = failures(validate(tiny_model.serving_dir, tiny_model, options=exchanged))
    assert all("labels" in detail for detail in found.values()) and found


@pytest.mark.parametrize("lost", ["saved_model.pb", "variables/variables.index"])
def test_a_half_copied_export_is_refused(tiny_model, tmp_path, lost):
    shutil.copytree(tiny_model.serving_dir, tmp_path / "half")
    os.remove(tmp_path / "half" / lost)
    assert "loads in a session" in failures(validate(tmp_path / "half", tiny_model))


def test_a_missing_signature_is_named(tiny_model, tmp_path):
    archive = keras.export.ExportArchive()
    archive.track(tiny_model.model)
    archive.add_endpoint(
        "serving_default",
        lambda image_bytes: {"probabilities": tf.zeros([tf.shape(image_bytes)[0], 3])},
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    archive.write_out(str(tmp_path / "poor"), verbose=False)
    found = failures(validate(tmp_path / "poor", tiny_model))
    assert found["has all signatures"] == "missing: examples, classify, explain, embed"


def run_executor(tiny_model, tmp_path, **changes):
    split_dir = tmp_path / "examples" / "Split-test"
    split_dir.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(split_dir / "data_tfrecord-00000-of-00001")) as writer:
        for example in tiny_model.examples:
            writer.write(example)
    examples, model, model_run = (
        standard_artifacts.Examples(),
        standard_artifacts.Model(),
        standard_artifacts.ModelRun(),
    )
    examples.uri, examples.split_names = str(tmp_path / "examples"), '["test"]'
    model.uri = os.path.dirname(tiny_model.serving_dir)
    model_run.uri = tiny_model.run_dir
    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = str(tmp_path / "blessing")
    os.makedirs(blessing.uri)
    properties = {
        "options": tiny_model.options.model_dump_json(),
        "split": "test",
        "num_examples": 5,
        "tolerance": 1e-4,
    } | changes
    executor.Executor().Do(
        {"examples": [examples], "model": [model], "model_run": [model_run]}, {"blessing": [blessing]}, properties
    )
    return blessing


def test_the_component_blesses_as_infra_validator_does(tiny_model, tmp_path):
    blessing = run_executor(tiny_model, tmp_path)
    assert blessing.get_int_custom_property("blessed") == 1
    assert sorted(os.listdir(blessing.uri)) == ["INFRA_BLESSED", "checks.json"]
    with open(os.path.join(blessing.uri, "checks.json")) as file:
        assert any(check["detail"].startswith("5 examples") for check in json.load(file))


def test_the_component_refuses(tiny_model, tmp_path):
    options = TrainerOptions.model_validate_json(tiny_model.options.model_dump_json())
    exchanged = options.model_copy(update={"classes": ("red", "green", "blue")})
    blessing = run_executor(tiny_model, tmp_path, options=exchanged.model_dump_json())
    assert blessing.get_int_custom_property("blessed") == 0
    assert sorted(os.listdir(blessing.uri)) == ["INFRA_NOT_BLESSED", "checks.json"]
