"""Training phases: the weights that each may change, their history, their errors."""

import csv
import dataclasses
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module import backbones, features, models, training
from trainer_module.data_wait import DataWait
from trainer_module.frozen_features import frozen_features
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import AugmentationOptions, TrainerOptions, TrainingOptions
from trainer_module.tasks import classification

SIZE, COUNT = 32, 18


def options(**sections):
    return TrainerOptions(
        classes=("a", "b", "c"),
        transform={"image_size": SIZE, "normalization": "backbone"},
        model={"name": "transfer", "backbone": "efficientnet_lite0"},
        **({"training": {"batch_size": 6, "epochs": 2, "learning_rate": 1e-2}} | sections),
    )


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(3)
    labels = np.arange(COUNT) % 3
    images = random.integers(0, 80, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    images[np.arange(COUNT), :, :, labels] += 150
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(6)


def small_backbone(*, image_size, weights):
    """Builds two convolutions with batch normalisation, with one position in the last map; compiles quickly."""
    x = inputs = keras.Input([*image_size, 3])
    for filters, stride in ((4, 8), (6, 4)):
        x = keras.layers.Conv2D(filters, 3, stride, "same")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, x, name=features.BACKBONE_LAYER)


@pytest.fixture(scope="module")
def model():
    return on_small_backbone()


def on_small_backbone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "get", lambda _: types.SimpleNamespace(build=small_backbone, trainable=True))
        return small_model()


def small_model():
    keras.utils.set_random_seed(2)
    statistics = PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32))
    return build_network(options(), statistics)


@pytest.fixture
def fresh(model):
    """The shared model with its initial weights and a frozen backbone."""
    initial_weights = model.get_weights()
    yield model
    model.get_layer(features.BACKBONE_LAYER).trainable = False
    model.set_weights(initial_weights)


def weights_of(model):
    backbone = model.get_layer(features.BACKBONE_LAYER)
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return {
        "norms": [np.array(weight) for layer in norms for weight in layer.weights],
        "backbone": [np.array(weight) for weight in backbone.weights],
        "head": [np.array(weight) for weight in model.get_layer(features.LOGITS_LAYER).weights],
    }


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_first_phase_does_not_change_the_backbone(fresh, data, tmp_path):
    before = weights_of(fresh)
    history = training.train(fresh, options(), train_data=data, validation_data=data, run_dir=str(tmp_path))
    after = weights_of(fresh)
    assert same(before["backbone"], after["backbone"])
    assert not same(before["head"], after["head"])
    assert history.history["phase"] == ["head", "head"]


def tensorboard_curve(folder, tag):
    """The values of a scalar by their step."""
    curve = {}
    for path in folder.iterdir():
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == tag:
                    curve[event.step] = float(tf.make_ndarray(value.tensor))
    return curve


@pytest.mark.parametrize("augmentation", [AugmentationOptions(), AugmentationOptions(horizontal_flip=True)])
def test_the_second_phase_changes_the_last_layers_except_batch_normalisation(fresh, data, tmp_path, augmentation):
    before = weights_of(fresh)
    tuning = {"epochs": 2, "learning_rate": 1e-3, "unfreeze_layers": 4}
    chosen = options(
        fine_tuning=tuning,
        augmentation=augmentation,
        training={"batch_size": 6, "epochs": 1, "learning_rate": 1e-4},
    )
    history = training.train(fresh, chosen, train_data=data, validation_data=data, run_dir=str(tmp_path))
    after = weights_of(fresh)
    assert same(before["norms"], after["norms"])
    assert not same(before["backbone"], after["backbone"])
    trained = [layer.name for layer in fresh.get_layer(features.BACKBONE_LAYER).layers if layer.trainable]
    assert len(trained) == 4 - 1  # one of the last four is batch normalisation
    assert history.epoch == [0, 1, 2]
    with open(tmp_path / features.HISTORY_FILE, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [row["phase"] for row in rows] == ["head", "fine_tuning", "fine_tuning"]
    assert float(rows[0]["learning_rate"]) == pytest.approx(1e-4)
    assert float(rows[1]["learning_rate"]) == pytest.approx(1e-3)
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(history.history["val_loss"])
    for split, column in (("train", "loss"), ("validation", "val_loss")):
        assert tensorboard_curve(tmp_path / split, "loss") == pytest.approx(dict(enumerate(history.history[column])))


def test_fine_tuning_without_improvement_is_reverted(fresh, data, tmp_path, eagerly):
    tuning = {"epochs": 1, "learning_rate": 10.0, "unfreeze_layers": 1}
    with eagerly():
        history = training.train(
            fresh, options(fine_tuning=tuning), train_data=data, validation_data=data, run_dir=str(tmp_path)
        )
        fresh.compile(loss=classification.TASK.loss(options()), metrics=classification.TASK.training_metrics(options()))
        loss, _ = fresh.evaluate(data, verbose=0)
    assert loss == pytest.approx(min(history.history["val_loss"]), rel=1e-4)
    assert history.history["val_loss"][-1] > min(history.history["val_loss"])


def test_the_last_epoch_is_kept_although_an_earlier_one_was_better(data, tmp_path, eagerly):
    network = on_small_backbone()
    # The labels of the validation data are wrong: what is learned makes its loss larger.
    wrong = data.map(lambda images, labels: (images, (labels + 1) % 3))
    training_options = {"batch_size": 6, "epochs": 3, "learning_rate": 3e-2, "early_stopping_patience": 0}
    chosen = options(training=training_options | {"schedule": "cosine", "kept_epoch": "last"})
    with eagerly():
        history = training.train(network, chosen, train_data=data, validation_data=wrong, run_dir=str(tmp_path))
        network.compile(
            loss=classification.TASK.loss(options()), metrics=classification.TASK.training_metrics(options())
        )
        loss, _ = network.evaluate(wrong, verbose=0)
    assert loss == pytest.approx(history.history["val_loss"][-1], rel=1e-4)
    assert loss > min(history.history["val_loss"])


def test_the_average_of_the_weights_is_kept_and_evaluated(data, tmp_path, monkeypatch):
    whole = data.unbatch().batch(COUNT)

    def train(network, steps, **keys):
        common = {"batch_size": 6, "learning_rate": 0.1, "optimizer": "sgd", "schedule": "constant"}
        # Augmentation: cached features of a frozen backbone would be shuffled.
        chosen = options(training=common | keys, task={"dropout": 0.0}, augmentation={"brightness": 1e-6})
        batches = whole.repeat(steps).apply(tf.data.experimental.assert_cardinality(steps))
        return training.train(
            network, chosen, train_data=batches, validation_data=data, run_dir=str(tmp_path / f"{steps}")
        )

    network, after, append = on_small_backbone(), [], training.History.append
    with monkeypatch.context() as patch:
        patch.setattr(training.History, "append", lambda *row: after.append(network.get_weights()) or append(*row))
        train(network, steps=1, epochs=3)
    averaged = on_small_backbone()
    history = train(averaged, steps=3, epochs=1, weight_average=0.5)
    # The average begins with the weights after the first step.
    for weight, first, second, third in zip(averaged.get_weights(), *after, strict=True):
        np.testing.assert_allclose(weight, first / 4 + second / 4 + third / 2, atol=1e-5)
    averaged.compile(loss=classification.TASK.loss(options()), metrics=classification.TASK.training_metrics(options()))
    assert averaged.evaluate(data, verbose=0)[0] == pytest.approx(history.history["val_loss"][0], rel=1e-4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"schedule": "cosine"}, r"set early_stopping_patience = 0 \(given: 5\)"),
        ({"early_stopping_patience": 0}, r'requires schedule = "cosine" or "one_cycle" \(given: "plateau"\)'),
    ],
)
def test_the_last_epoch_is_not_kept_where_the_validation_loss_decides(keys, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(kept_epoch="last", **keys)


def test_cached_features_equal_those_of_the_backbone_and_are_computed_once(fresh, data, tmp_path, monkeypatch):
    encoder = keras.Model(fresh.input, fresh.get_layer(features.POOLED_LAYER).output)
    read = []
    counted = data.map(lambda x, y: (x, tf.py_function(lambda y: read.append(1) or y, [y], tf.int64)))
    counted = counted.map(lambda x, y: (x, tf.ensure_shape(y, [None])))
    expected = np.concatenate([encoder(images, training=False) for images, _ in data])
    for max_bytes, is_file in ((10**9, False), (0, True)):
        monkeypatch.setattr("trainer_module.free_memory.available_bytes", lambda free=4 * max_bytes: free)
        read.clear()
        path = str(tmp_path / "cache" / str(is_file))
        cached = frozen_features(encoder, counted, batch_size=5, cache_path=path)
        for _ in range(3):
            result = np.concatenate([vectors for vectors, _ in cached])
            np.testing.assert_allclose(result, expected, atol=1e-5)
        assert len(read) == 3  # batches, in one pass
        assert bool(list(tmp_path.glob("cache/*"))) == is_file


def test_cached_features_are_shuffled_reproducibly_in_every_epoch(fresh, data, tmp_path):
    encoder = keras.Model(fresh.input, fresh.get_layer(features.POOLED_LAYER).output)

    def orders():
        cached = frozen_features(encoder, data, batch_size=COUNT, cache_path=str(tmp_path / "x"), shuffle_seed=4)
        return [next(iter(cached))[0].numpy().tobytes() for _ in range(2)]

    one, other = orders(), orders()
    assert one == other and one[0] != one[1]


def test_an_unfrozen_encoder_is_rejected(fresh, data, tmp_path):
    models.unfreeze(fresh, 8)
    encoder = keras.Model(fresh.input, fresh.get_layer(features.POOLED_LAYER).output)
    with pytest.raises(ValueError, match="trainable weights; freeze it first"):
        frozen_features(encoder, data, batch_size=5, cache_path=str(tmp_path / "x"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"transform": {"image_size": 32}}, r'set transform\.normalization = "backbone" \(given: "dataset"\)'),
        ({"transform": {"normalization": "backbone", "channels": 1}}, r"set transform\.channels = 3"),
        ({"model": {"name": "scratch_cnn"}, "transform": {"normalization": "backbone"}}, "requires a model with"),
        (
            {"model": {"name": "scratch_cnn"}, "transform": {}, "fine_tuning": {"epochs": 1}},
            "no backbone that starts frozen",
        ),
        (
            {
                "model": {"name": "transfer", "backbone": "saved_model"},
                "fine_tuning": {"epochs": 1, "unfreeze_layers": 1},
            },
            "layers of a SavedModel cannot be trained",
        ),
        (
            {"model": {"name": "transfer", "backbone": "vgg"}},
            r"unknown backbone `vgg`; known: convnext_tiny, densenet121",
        ),
    ],
)
def test_conflicting_sections(sections, message):
    defaults = {"classes": ("a", "b"), "model": {"name": "transfer"}, "transform": {"normalization": "backbone"}}
    with pytest.raises(ValueError, match=message):
        TrainerOptions(**(defaults | sections))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_ends_in_float32(data, tmp_path, precision, monkeypatch, caplog):
    chosen = TrainerOptions(
        classes=("a", "b", "c"),
        transform={"image_size": SIZE, "normalization": "rescale"},
        model={"name": "scratch_cnn", "blocks": [[4], [4]]},
        task={"dense_units": 4},
        training={"batch_size": 6, "epochs": 2, "precision": precision},
    )
    model = build_network(chosen, PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32)))
    computed_in = {layer.compute_dtype for layer in model.layers if "conv" in layer.name}
    assert computed_in == {precision.removeprefix("mixed_")}
    monkeypatch.setattr("trainer_module.precision.slowness", lambda name: f"{name} is slow")
    history = training.train(model, chosen, train_data=data, validation_data=data, run_dir=str(tmp_path))
    assert f"{precision} is slow" in caplog.messages
    assert np.all(np.isfinite(history.history["loss"]))
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    model.save(tmp_path / "model.keras")
    images = next(iter(data))[0]
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(again(images, training=False), model(images, training=False))


def test_waiting_for_images_is_measured(fresh, data, tmp_path):
    def slow(images, labels):
        return tf.py_function(lambda x, y: time.sleep(0.2) or (x, y), [images, labels], (tf.uint8, tf.int64))

    def with_shape(images, labels):
        return tf.ensure_shape(images, [None, SIZE, SIZE, 3]), tf.ensure_shape(labels, [None])

    chosen = options(augmentation=AugmentationOptions(horizontal_flip=True))
    waits = {}
    for name, train_data in (("slow", data.map(slow).map(with_shape).prefetch(1)), ("fast", data.cache().prefetch(1))):
        history = training.train(fresh, chosen, train_data=train_data, validation_data=data, run_dir=str(tmp_path))
        waits[name] = history.history["data_wait"][-1]
    assert waits["slow"] > 0.5 > waits["fast"] >= 0


def test_measuring_does_not_change_the_batches(data):
    wait = DataWait()
    for one, other in zip(wait.measure(data), data, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert wait.pop() > 0
    assert wait.pop() == 0


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_nan_loss_stops_the_training(fresh, data, tmp_path, monkeypatch, split, eagerly):
    def loss(labels, logits):
        return tf.where(tf.reshape(labels, [-1]) < 100, tf.reduce_mean(logits**2, axis=-1), float("nan"))

    monkeypatch.setattr(classification, "TASK", dataclasses.replace(classification.TASK, loss=lambda *_: loss))
    broken = data.map(lambda images, labels: (images, labels + 100))
    both = {"train_data": data, "validation_data": data} | {f"{split}_data": broken}
    message = rf"(?i)the {split}\w* loss became nan .*learning_rate"
    with eagerly(), pytest.raises(training.TrainingDivergedError, match=message):
        training.train(fresh, options(), run_dir=str(tmp_path), **both)
