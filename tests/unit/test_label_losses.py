"""Loss and class weights of labels, compared with formulas, scikit-learn and the losses that `fit` reports."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from trainer_module import backbones, features, label_losses, training
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.label_losses import LabelLoss
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions
from trainer_module.tasks import classification

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.25, 0.5, 0.25]])
LOGITS = tf.constant(np.log(PROBABILITIES) + 3.0, tf.float32)
IDS = np.array([0, 1, 2, 0])
SHARES = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 0.8], [0.9, 0.1, 0.0]])


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_ids(shape):
    assert float(LabelLoss()(IDS.reshape(shape), LOGITS)) == pytest.approx(log_loss(IDS, PROBABILITIES), rel=1e-5)


def test_soft_labels():
    expected = -(SHARES * np.log(PROBABILITIES)).sum(axis=1).mean()
    assert float(LabelLoss()(SHARES, LOGITS)) == pytest.approx(expected, rel=1e-5)
    assert float(LabelLoss()(np.eye(3)[IDS], LOGITS)) == pytest.approx(float(LabelLoss()(IDS, LOGITS)), rel=1e-6)


@pytest.mark.parametrize("labels", [IDS, SHARES], ids=["ids", "soft"])
@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing(labels, smoothing):
    shares = np.eye(3)[labels] if labels.ndim == 1 else labels
    expected = -((shares * (1 - smoothing) + smoothing / 3) * np.log(PROBABILITIES)).sum(axis=1).mean()
    assert float(LabelLoss(smoothing)(labels, LOGITS)) == pytest.approx(expected, rel=1e-5)
    reference = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    assert float(LabelLoss(smoothing)(labels, LOGITS)) == pytest.approx(float(reference(shares, LOGITS)), rel=1e-5)


def test_images_without_a_label_have_no_loss_and_no_gradient():
    for labels in (np.array([0, -1, 2, -1]), np.where([[True], [False], [True], [False]], SHARES, 0.0)):
        with tf.GradientTape() as tape:
            tape.watch(LOGITS)
            losses = LabelLoss(0.1).call(tf.constant(labels), LOGITS)
        np.testing.assert_array_equal(losses.numpy() > 0, [True, False, True, False])
        gradient = tape.gradient(losses, LOGITS).numpy()
        np.testing.assert_array_equal(gradient.any(axis=1), [True, False, True, False])


def test_correct_predictions_of_ids_and_of_the_largest_share():
    np.testing.assert_array_equal(label_losses.is_correct(tf.constant(IDS), LOGITS), [1, 1, 1, 0])
    np.testing.assert_array_equal(label_losses.is_correct(tf.constant(SHARES), LOGITS), [1, 1, 1, 0])


def labelled(labels, size=4):
    images = np.zeros((len(labels), size, size, 3), np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, np.asarray(labels, np.int64))).batch(3)


def test_balanced_weights_equal_those_of_scikit_learn():
    labels = [0, 0, 0, 0, 0, 1, 1, 2, 0, 0]
    weights = label_losses.class_weights("balanced", labelled(labels), 3)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1.0)
    np.testing.assert_array_equal(label_losses.class_weights("none", labelled(labels), 3), [1, 1, 1])


def test_a_class_without_images_has_weight_0_and_does_not_change_the_others():
    weights = label_losses.class_weights("balanced", labelled([0, 2, 2, 2]), 3)
    np.testing.assert_allclose(weights, [2.0, 0.0, 2 / 3], rtol=1e-6)
    unknown = label_losses.class_weights("balanced", labelled([-1, 0, 2, 2, 2]), 3)
    np.testing.assert_array_equal(unknown, weights)


# --- In training ------------------------------------------------------------------------------------------------

SIZE = 32
LABELS = np.array([0] * 8 + [1] * 3 + [2] * 1)


def options(model="transfer", **sections):
    models = {
        "transfer": {"name": "transfer", "backbone": "mobilenet_v2"},
        "scratch_cnn": {"name": "scratch_cnn", "blocks": [[4]]},
    }
    normalization = "backbone" if model == "transfer" else "dataset"
    training = {"batch_size": 12, "epochs": 1, "learning_rate": 1e-6} | sections.pop("training", {})
    task = {"dropout": 0.0} | ({"dense_units": 4} if model == "scratch_cnn" else {}) | sections.pop("task", {})
    return TrainerOptions(
        classes=("a", "b", "c"),
        transform={"image_size": SIZE, "normalization": normalization},
        model=models[model],
        training=training,
        task=task,
        **sections,
    )


def small_backbone(*, image_size, weights):
    x = inputs = keras.Input([*image_size, 3])
    x = keras.layers.Conv2D(4, 3, 8, "same", activation="relu")(x)
    return keras.Model(inputs, x, name=features.BACKBONE_LAYER)


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (len(LABELS), SIZE, SIZE, 3), dtype=np.uint8)
    return tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(12)


def build(chosen, monkeypatch):
    monkeypatch.setattr(backbones, "get", lambda _: types.SimpleNamespace(build=small_backbone, trainable=True))
    keras.utils.set_random_seed(4)
    return build_network(chosen, PixelStatistics(np.full(3, 127.0), np.full(3, 5000.0)))


@pytest.mark.parametrize("model", ["scratch_cnn", "transfer"])
def test_class_weights_change_the_training_loss_and_smoothing_both_losses(model, data, tmp_path, monkeypatch):
    chosen = options(model, task={"class_weights": "balanced", "label_smoothing": 0.2})
    network = build(chosen, monkeypatch)
    if model == "scratch_cnn":  # batch normalisation would change the training loss
        network.get_layer("block1_bn1").trainable = False
    images, labels = (part.numpy() for part in next(iter(data)))
    log_probabilities = tf.nn.log_softmax(network(images, training=False)).numpy()
    smoothed = 0.8 * np.eye(3)[labels] + 0.2 / 3
    losses = -(smoothed * log_probabilities).sum(axis=1)
    history = training.train(network, chosen, train_data=data, validation_data=data, run_dir=str(tmp_path)).history
    assert history["loss"][0] == pytest.approx((compute_sample_weight("balanced", LABELS) * losses).mean(), rel=1e-3)
    assert history["val_loss"][0] == pytest.approx(losses.mean(), rel=1e-3)
    assert abs(history["loss"][0] / history["val_loss"][0] - 1) > 0.01
    assert history["accuracy"][0] == pytest.approx((log_probabilities.argmax(axis=1) == labels).mean())


def test_class_weights_apply_in_every_phase(data, tmp_path, monkeypatch, eagerly):
    chosen = options(
        task={"class_weights": "balanced", "label_smoothing": 0.1},
        fine_tuning={"epochs": 1, "learning_rate": 1e-6, "unfreeze_layers": 1},
    )
    network = build(chosen, monkeypatch)
    with eagerly():
        history = training.train(network, chosen, train_data=data, validation_data=data, run_dir=str(tmp_path)).history
    assert history["phase"] == ["head", "fine_tuning"]
    assert history["loss"][1] == pytest.approx(history["loss"][0], rel=1e-3)
    assert history["val_loss"][1] == pytest.approx(history["val_loss"][0], rel=1e-3)
    assert abs(history["loss"][0] / history["val_loss"][0] - 1) > 0.01


def test_class_weights_are_mixed_like_labels(data):
    chosen = options("scratch_cnn", task={"class_weights": "balanced"}, augmentation={"cutmix": 1.0})
    weights = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    _, augmented = training.add_augmentation(None, classification.TASK.sample_weight(data, chosen), chosen)
    ((_, shares, mixed_weights),) = list(augmented)
    np.testing.assert_allclose(mixed_weights, shares.numpy() @ weights, rtol=1e-5)
    assert len(np.unique(shares)) > 4


def test_labels_are_counted_once(data):
    counted = []
    watched = data.map(
        lambda x, y: (x, tf.ensure_shape(tf.py_function(lambda y: counted.append(1) or y, [y], y.dtype), [None]))
    )
    weighted = classification.TASK.sample_weight(watched, options("scratch_cnn", task={"class_weights": "balanced"}))
    assert len(counted) == 1
    for _ in range(2):
        for _batch in weighted:
            pass
    assert len(counted) == 3
