"""The exported signatures, loaded in a session as by TF Serving."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from trainer_module import features, grad_cam, preprocessing, tasks
from trainer_module.model_input import Geometry
from trainer_module.tasks import classification


def test_the_export_has_all_signatures(tiny_session):
    assert set(tiny_session.signatures) == {
        "serving_default",
        "examples",
        "classify",
        "transform_features",
        "explain",
        "embed",
    }


@pytest.mark.parametrize("signature", ["serving_default", "examples"])
def test_predictions_equal_those_of_the_keras_model(tiny_session, tiny_model, signature):
    values = tiny_model.image_bytes if signature == "serving_default" else tiny_model.examples
    response = tiny_session.run_on(signature, values)
    expected = np.stack(classification.TASK.predict(tiny_model.model, tiny_model.options, tiny_model.image_bytes))
    np.testing.assert_allclose(response["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(response["class_id"], expected.argmax(axis=1))
    assert [label.decode() for label in response["label"]] == [
        tiny_model.options.classes[i] for i in expected.argmax(axis=1)
    ]
    np.testing.assert_allclose(response["score"], expected.max(axis=1), atol=1e-5)


def test_a_single_image_has_the_same_prediction_as_in_a_batch(tiny_session, tiny_model):
    together = tiny_session.run_on("serving_default", tiny_model.image_bytes)["probabilities"]
    for image, expected in zip(tiny_model.image_bytes, together, strict=True):
        np.testing.assert_allclose(
            tiny_session.run_on("serving_default", [image])["probabilities"][0], expected, atol=1e-5
        )


def test_classify_returns_names_and_scores_of_all_classes(tiny_session, tiny_model):
    response = tiny_session.run_on("classify", tiny_model.examples)
    assert [name.decode() for name in response["classes"][3]] == list(tiny_model.options.classes)
    np.testing.assert_allclose(response["scores"].sum(axis=1), 1.0, atol=1e-5)


def test_transform_features_returns_the_label(tiny_session, tiny_model):
    np.testing.assert_array_equal(
        tiny_session.run_on("transform_features", tiny_model.examples)["label"], [0, 1, 2] * 4
    )


def test_explain_returns_grad_cam_heat_maps(tiny_session, tiny_model):
    response = tiny_session.run_on("explain", tiny_model.image_bytes)
    pixels = preprocessing.decode_and_resize(tf.constant(tiny_model.image_bytes), Geometry.of(16), 3)
    expected = grad_cam.explainer(tiny_model.model, tasks.get("classification").explanation)(pixels)
    np.testing.assert_allclose(response["heatmap"], expected.heatmap, atol=1e-4)
    assert response["heatmap"].min() >= 0 and response["heatmap"].max() <= 1
    np.testing.assert_array_equal(response["class_id"], expected.subject.class_ids)
    with Image.open(io.BytesIO(tiny_model.image_bytes[0])) as image:
        assert Image.open(io.BytesIO(response["overlay_png_bytes"][0])).size == image.size


def test_embeddings_have_unit_length(tiny_session, tiny_model):
    response = tiny_session.run_on("embed", tiny_model.image_bytes)["embedding"]
    assert response.shape == (12, 12)
    np.testing.assert_allclose(np.linalg.norm(response, axis=1), 1.0, atol=1e-5)


def test_class_names_are_stored_beside_the_model(tiny_model):
    labels = json.loads((Path(tiny_model.serving_dir) / features.LABELS_FILE).read_text())
    assert labels == list(tiny_model.options.classes)
    assert not list(Path(tiny_model.serving_dir).rglob("*.keras"))
    assert (Path(tiny_model.run_dir) / features.KERAS_FILE).is_file()


def test_an_unreadable_image_is_rejected_with_an_error_code(tiny_session):
    with pytest.raises(tf.errors.InvalidArgumentError):
        tiny_session.run_on("serving_default", [b"not an image"])
