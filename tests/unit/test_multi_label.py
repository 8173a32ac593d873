"""Multi-label classification: losses, decision thresholds, the export and what clients read from it."""

import keras
import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from serving import responses, transport_rest
from trainer_module import (
    decision_thresholds,
    features,
    grad_cam,
    label_set_losses,
    network,
    stored_options,
    tasks,
)
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions
from trainer_module.tasks import Subject, _signatures, multi_label

CLASSES = ("cat", "dog", "owl")
TASK = tasks.get("multi_label")


def options(**task):
    return TrainerOptions(classes=CLASSES, model={"name": "scratch_cnn"}, task={"name": "multi_label", **task})


# === Labels ===


def labels_of(*names):
    raw_labels = [{features.CLASS_TEXT: list(each)} for each in names]
    return TASK.labels(raw_labels, [(8, 8)] * len(names), options()).numpy()


def test_labels_are_multi_hot_and_may_be_empty():
    read = labels_of(("dog", "cat"), (), ("owl", "owl"))
    np.testing.assert_array_equal(read, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    assert read.dtype == np.float32


def test_an_unknown_class_marks_the_whole_label():
    np.testing.assert_array_equal(labels_of(("cat", "bear"), ("bear",)), [[-1, -2, -2], [-2, -2, -2]])


# === Losses ===


def test_binary_cross_entropy_equals_that_of_keras(rng):
    labels = tf.constant((rng.random((6, 3)) < 0.4).astype(np.float32))
    logits = tf.constant(rng.normal(0, 3, (6, 3)).astype(np.float32))
    for smoothing in (0.0, 0.2):
        expected = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)(labels, logits)
        np.testing.assert_allclose(label_set_losses.BinaryCrossEntropy(smoothing)(labels, logits), expected, rtol=1e-5)
    # Without focusing and shift, the asymmetric loss is the same.
    np.testing.assert_allclose(
        label_set_losses.AsymmetricLoss(0.0, 0.0, 0.0)(labels, logits),
        label_set_losses.BinaryCrossEntropy()(labels, logits),
        rtol=1e-5,
    )


def test_asymmetric_loss_is_that_of_the_paper(rng):
    labels = (rng.random((6, 3)) < 0.4).astype(np.float32)
    logits = rng.normal(0, 2, (6, 3)).astype(np.float32)
    p = 1.0 / (1.0 + np.exp(-logits.astype(float)))
    shifted = np.maximum(p - 0.05, 0.0)
    expected = -(labels * (1 - p) * np.log(p) + (1 - labels) * shifted**4 * np.log(1 - shifted)).mean(axis=1)
    computed = label_set_losses.AsymmetricLoss(1.0, 4.0, 0.05).call(tf.constant(labels), tf.constant(logits))
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("exponents", [(0.0, 4.0, 0.05), (0.5, 0.5, 0.0), (2.0, 1.0, 0.0)])
def test_gradients_of_extreme_logits_are_finite(exponents):
    logits = tf.Variable([[-90.0, 90.0, 0.0], [90.0, -90.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = label_set_losses.AsymmetricLoss(*exponents)(tf.constant([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), logits)
    assert np.isfinite(loss) and np.isfinite(tape.gradient(loss, logits)).all()


def test_positive_weights_balance_present_and_absent_classes():
    labels = np.zeros((1000, 4), np.float32)
    labels[:250, 0] = labels[:, 1] = labels[0, 2] = 1.0
    labels[-1] = -2.0  # an unknown class: not counted
    data = tf.data.Dataset.from_tensor_slices((np.zeros((1000, 1)), labels)).batch(64)
    weights = label_set_losses.positive_weights(data, 4)
    np.testing.assert_allclose(weights, [749 / 250, 1.0, 100.0, 1.0])
    loss = label_set_losses.BinaryCrossEntropy(positive_weights=weights)
    logits, label = tf.zeros([1, 4]), tf.constant([[1.0, 0.0, 1.0, 0.0]])
    assert float(loss(label, logits)) == pytest.approx(np.log(2) * (749 / 250 + 1 + 100 + 1) / 4, rel=1e-5)


# === Decision thresholds ===


def test_thresholds_have_the_largest_f1(rng):
    labels = rng.random((80, 3)) < [0.1, 0.5, 0.9]
    scores = np.clip(rng.normal(0.4, 0.2, (80, 3)) + 0.15 * labels, 0.001, 0.999).astype(np.float32)
    chosen = decision_thresholds.best_f1(scores, labels)
    for index, threshold in enumerate(chosen):
        best = max(sklearn.metrics.f1_score(labels[:, index], scores[:, index] >= value) for value in scores[:, index])
        predicted = scores[:, index] >= np.float32(threshold)
        assert sklearn.metrics.f1_score(labels[:, index], predicted) == pytest.approx(best)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.2, 0.3], [0, 0, 0], 0.5),  # no image of the class
        ([0.1, 0.2, 0.9], [0, 0, 1], 0.5),  # 0.5 is as good as any
        ([0.1, 0.2, 0.3], [0, 0, 1], 0.25),  # halfway
        ([0.7, 0.9, 0.95], [0, 1, 1], 0.8),
        ([0.7, 0.8], [1, 1], 0.5),  # every image
        ([0.2, 0.2], [1, 1], 0.1),
        ([0.2, 0.2, 0.6], [1, 0, 1], 0.1),  # equal scores: both or none
        ([0.0, 0.0], [1, 1], 0.0),
        ([np.nextafter(np.float32(0.7), np.float32(1)), 0.7], [1, 0], np.nextafter(np.float32(0.7), np.float32(1))),
    ],
)
def test_thresholds_of_special_cases(scores, labels, expected):
    values = np.array(scores, np.float32)[:, np.newaxis]
    (chosen,) = decision_thresholds.best_f1(values, np.array(labels, bool)[:, np.newaxis])
    assert chosen == pytest.approx(expected, abs=1e-9 if 0.7 < expected < 0.7001 else 1e-6)


class Scores(keras.Model):
    """Returns its input as logits."""

    def call(self, inputs, training=False):
        """The inputs."""
        return inputs


def test_thresholds_are_chosen_on_the_validation_data_and_stored_with_the_options(caplog):
    logits = np.array([[4.0, -3.0, 1.0], [3.0, -2.0, -1.0], [2.0, -1.0, -5.0]], np.float32)
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    data = tf.data.Dataset.from_tensor_slices((logits, labels)).batch(2)
    with caplog.at_level("INFO", logger=features.PROGRESS_LOGGER):
        calibrated = TASK.calibrate(Scores(), data, options())
    sigmoid = tf.sigmoid(tf.constant([[2.5, -1.5, 0.0]])).numpy()[0]
    assert calibrated.task.thresholds == pytest.approx(sigmoid, abs=0.02) and calibrated.task.thresholds[2] == 0.5
    assert TrainerOptions.model_validate_json(calibrated.model_dump_json()) == calibrated
    assert "decision thresholds: cat 0.9" in caplog.text
    predicted = TASK.decode(tf.constant(logits), calibrated).numpy()[..., 1]
    np.testing.assert_array_equal(predicted[:, :2], labels[:, :2])
    for configured in (0.3, [0.1, 0.2, 0.3]):
        assert TASK.calibrate(Scores(), data, options(thresholds=configured)) == options(thresholds=configured)


def test_thresholds_that_do_not_fit_the_classes_are_refused_before_the_training():
    with pytest.raises(ValueError, match=r"has 2 values for 3 classes \(cat, dog, owl\). Give one per class"):
        multi_label._head(None, 3, options(thresholds=[0.1, 0.2]))
    assert multi_label._thresholds(options(thresholds=0.3)).tolist() == pytest.approx([0.3] * 3)


def test_other_nodes_read_the_thresholds_beside_the_model(tmp_path):
    configured, trained = options(), options(thresholds=[0.1, 0.2, 0.3])
    assert stored_options.with_trained_network(configured, str(tmp_path)) == configured
    (tmp_path / features.OPTIONS_FILE).write_text(trained.model_dump_json())
    assert stored_options.with_trained_network(configured, str(tmp_path)) == trained


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({}, "largest difference of a probability 0"),
        ({"probabilities": [[0.9, 0.3, 0.4]]}, "largest difference of a probability 0.1, allowed 0.001"),
        ({"thresholds": [[0.5, 0.5, 0.4]]}, "the thresholds are not those of the options"),
        ({"predicted": [[True, True, False]]}, "do not follow from the probabilities and the thresholds"),
        ({"labels": [b"dog"]}, "not the names of the predicted classes"),
        # A probability at its threshold may be on either side.
        ({"predicted": [[True, False, True]], "labels": [b"cat|owl"]}, "largest difference of a probability 0"),
    ],
)
def test_a_response_is_compared_with_the_keras_model(changes, detail):
    expected = np.array([[[0.9, 1.0], [0.3, 0.0], [0.5, 0.0]]])
    response = {
        "probabilities": [[0.9, 0.3, 0.5]],
        "thresholds": [[0.5, 0.5, 0.5005]],
        "predicted": [[True, False, False]],
        "labels": [b"cat"],
    } | changes
    chosen = options(thresholds=[0.5, 0.5, 0.5005])
    agreement = multi_label._compare({key: np.array(value) for key, value in response.items()}, expected, chosen, 1e-3)
    assert detail in agreement.detail and agreement.passed == detail.endswith("0")


# === Drawing and responses ===


def test_captions_name_labels_and_predictions():
    assert multi_label._caption(np.array([1.0, 0.0, 1.0]), CLASSES) == ["cat", "owl"]
    assert multi_label._caption(np.array([0.3, 0.0, 1.0]), CLASSES) == ["cat: 30%", "owl: 100%"]
    assert multi_label._caption(np.zeros(3), CLASSES) == ["(none)"]
    assert multi_label._caption(np.array([[0.9, 1.0], [0.4, 0.0], [0.2, 1.0]]), CLASSES) == ["cat: 90%", "owl: 20%"]


def test_clients_read_sets_of_labels():
    outputs = {
        "labels": [b"cat|owl", b""],
        "predicted": [[True, False, True], [False, False, False]],
        "probabilities": [[0.6, 0.1, 0.9], [0.1, 0.3, 0.2]],
        "thresholds": [[0.5, 0.5, 0.5]] * 2,
    }
    first, second = responses.predictions(outputs, 3)
    assert first.label == "cat|owl" and first.score == 0.9 and first.version == 3
    assert first.labels == (("cat", 0.6), ("owl", 0.9)) and first.top == (("owl", 0.9), ("cat", 0.6))
    assert second.label == "" and second.labels == () == second.top and second.score == 0.3
    (single,) = responses.predictions({"label": [b"cat"], "score": [0.7]}, None)
    assert single.labels is None


def test_clients_read_an_explanation_for_every_predicted_class():
    outputs = {
        "heatmaps": np.zeros((2, 2, 4, 4), np.float32),
        "overlay_png_bytes": [[b"1", b""], [b"", b""]],
        "class_ids": [[2, -1], [-1, -1]],
        "labels": [[b"owl", b""], [b"", b""]],
        "scores": [[0.9, 0.0], [0.0, 0.0]],
    }
    first, second = responses.explanation_sets(outputs, 5)
    assert [(each.label, each.class_id, each.score, each.version) for each in first] == [("owl", 2, 0.9, 5)]
    assert first[0].overlay_png == b"1" and first[0].heatmap.shape == (4, 4) and second == ()
    assert first[0].box is None
    with_boxes = outputs | {"boxes": np.full((2, 2, 4), 0.25, np.float32)}
    assert responses.explanation_sets(with_boxes, 5)[0][0].box == (0.25, 0.25, 0.25, 0.25)
    # REST has lists of encoded values.
    decoded = transport_rest._decoded([{"b64": "MQ=="}, {"b64": ""}])
    assert decoded == [b"1", b""] and transport_rest._decoded([0.5]) == [0.5]


def explain_labels(model, options):
    return _signatures.explain_each(model, options, multi_label._explained_labels).compute


def test_every_predicted_class_is_explained(make_image):
    chosen = options(thresholds=[0.0, 1.0, 0.0], explained_labels=2)
    chosen = chosen.model_copy(update={"transform": chosen.transform.model_copy(update={"image_size": (32, 32)})})
    statistics = PixelStatistics(np.full(3, 120.0, np.float32), np.full(3, 4000.0, np.float32))
    model = network.build(chosen, statistics)
    images = tf.constant([make_image(32, 32), make_image(40, 24)])
    response = {key: value.numpy() for key, value in explain_labels(model, chosen)(images).items()}
    assert {frozenset(row) for row in response["class_ids"].tolist()} == {frozenset((0, 2))}
    assert {frozenset(row) for row in response["labels"].tolist()} == {frozenset((b"cat", b"owl"))}
    assert response["heatmaps"].shape == (2, 2, 32, 32) and response["heatmaps"].max() <= 1.0
    assert (np.diff(response["scores"], axis=1) <= 0.0).all() and (response["scores"] > 0.0).all()
    explain = grad_cam.explainer(model, TASK.explanation)
    pixels = _signatures.read_images(images, chosen).pixels
    for rank in range(2):
        expected = explain(pixels, Subject(tf.constant(response["class_ids"][:, rank])))
        np.testing.assert_allclose(response["heatmaps"][:, rank], expected.heatmap, atol=1e-5)
    none = explain_labels(model, options(thresholds=1.0).model_copy(update={"transform": chosen.transform}))
    response = {key: value.numpy() for key, value in none(images).items()}
    assert (
        (response["class_ids"] == -1).all() and not response["heatmaps"].any() and not any(response["labels"].ravel())
    )
