"""MonitoringReference on the artifacts of a run: what it stores for the pushed version, and nothing without a push."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

import components
from components.monitoring_reference import executor
from components.monitoring_reference.artifact import Reference
from trainer_module import embedding, features, image_statistics
from trainer_module.monitored import distances


@pytest.fixture
def stored(tiny_model, tmp_path):
    """Runs the executor on the twelve examples in two files."""

    def run(pushed=True, max_images=100):
        inputs = {
            "examples": standard_artifacts.Examples(),
            "model": standard_artifacts.Model(),
            "model_run": standard_artifacts.ModelRun(),
            "pushed_model": standard_artifacts.PushedModel(),
        }
        inputs["model"].uri = tiny_model.serving_dir.rpartition("/")[0]
        inputs["model_run"].uri = str(tmp_path / "model_run")
        (tmp_path / "model_run").mkdir()
        (tmp_path / "model_run" / features.OPTIONS_FILE).write_text(tiny_model.options.model_dump_json())
        inputs["examples"].uri, inputs["examples"].split_names = str(tmp_path / "examples"), '["train", "test"]'
        for split, num in (("test", 12), ("train", 8)):
            folder = tmp_path / "examples" / f"Split-{split}"
            folder.mkdir(parents=True)
            for shard in range(2):
                with tf.io.TFRecordWriter(str(folder / f"data-{shard:05d}-of-00002")) as writer:
                    for record in tiny_model.examples[:num][num // 2 * shard : num // 2 * (shard + 1)]:
                        writer.write(record)
        inputs["pushed_model"].set_int_custom_property("pushed", int(pushed))
        if pushed:
            inputs["pushed_model"].set_string_custom_property("pushed_version", "1700000000")
        output = components.MonitoringReference()
        output.uri = str(tmp_path / "reference")
        executor.Executor().Do(
            {name: [each] for name, each in inputs.items()},
            {"reference": [output]},
            {"split": "test", "max_images": max_images, "source_hash": ""},
        )
        return output

    return run


def test_the_reference_is_what_the_pushed_version_predicts(stored, tiny_model, tiny_session):
    output = stored()
    assert output.get_int_custom_property("version") == 1_700_000_000
    reference = Reference.read(output.uri)
    summary, images = reference.summary, reference.images
    assert (summary.task, summary.classes, summary.split) == ("classification", tiny_model.options.classes, "test")
    assert (summary.images, summary.split_images, len(images)) == (12, 12, 12)
    response = tiny_session.run_on(features.SERVING_DEFAULT, tiny_model.image_bytes)
    np.testing.assert_allclose(images.predictions.scores, response["probabilities"], rtol=1e-5)
    assert images.predictions.class_ids.tolist() == response["class_id"].tolist()
    assert [names for (names,) in images.labels] == [tiny_model.options.classes[index % 3] for index in range(12)]
    correct = [label == names.encode() for label, (names,) in zip(response["label"], images.labels, strict=True)]
    assert images.quality.tolist() == [float(each) for each in correct]
    # A window computes the same values from the images of requests.
    pixels = image_statistics.measure_all(tiny_model.image_bytes)
    np.testing.assert_array_equal(images.statistics, pixels.statistics)
    embed = embedding.from_saved_model(tiny_model.serving_dir)
    np.testing.assert_allclose(images.embeddings, embed(tiny_model.image_bytes), atol=1e-3)
    np.testing.assert_allclose(reference.training.embeddings, embed(tiny_model.image_bytes[:8]), atol=1e-3)
    assert reference.training.groups.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    np.testing.assert_array_equal(reference.training.thumbnails, pixels.thumbnail[:8])
    far = distances(images.embeddings, pixels.thumbnail, reference.training)
    np.testing.assert_allclose(images.distances, far, atol=1e-3)
    assert images.distances.shape == (12, 2)


def test_larger_splits_are_sampled(stored, tiny_model):
    reference = Reference.read(stored(max_images=5).uri)
    assert (reference.summary.images, reference.summary.split_images, len(reference.training.groups)) == (5, 12, 5)


def test_without_a_push_there_is_no_reference(stored):
    output = stored(pushed=False)
    assert not output.has_custom_property("version") and not Path(output.uri).exists()
