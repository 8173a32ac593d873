"""Conformance: every task with every model learns, is exported, responds in a session and is explained."""

import dataclasses
import io
from contextlib import contextmanager, nullcontext

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pydantic import ValidationError

from components.monitoring_reference import measured
from trainer_module import export, features, models, network, tasks, training
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import AugmentationOptions, TrainerOptions
from trainer_module.session_model import SessionModel

CLASSES, SIZE, COUNT = ("a", "b", "c"), 16, 8
STATISTICS = PixelStatistics(np.full(3, 120.0, np.float32), np.full(3, 4000.0, np.float32))
# Options that make a model small; a model without an entry has its default options.
SMALL = {
    "scratch_cnn": {"blocks": [[4], [4]]},
    "transfer": {"weights": "none"},
    "unet": {"depth": 1, "filters": 4},
    "detector": {"weights": "none", "channels": 4, "coarsest_stride": 32},
}
# Options with which one epoch is enough for predictions.
QUICK = {"detection": {"score_threshold": 0.0}}
# The classes of the labels: every class, one or two per image.
CLASS_IDS = [(index % 3, (index + index // 3) % 3) for index in range(COUNT)]


def pairs(shift):
    """Pairs of a task and a model in which every task and every model occurs."""
    names, others = tasks.names(), models.names()
    return [(names[i % len(names)], others[(i + shift) % len(others)]) for i in range(max(len(names), len(others)))]


@pytest.fixture(scope="module", autouse=True)
def small_backbone(small_backbones):
    """All tests of this module compile quickly."""
    with small_backbones():
        yield


def options(task, model="scratch_cnn", **sections):
    keys = {"name": model, **SMALL.get(model, {})}
    has_backbone = models.get(model).options.model_validate(keys).has_backbone()
    return TrainerOptions(
        classes=CLASSES,
        transform={"image_size": SIZE, "normalization": "backbone" if has_backbone else "dataset"},
        model=keys,
        task={"name": task, **QUICK.get(task, {})},
        **({"training": {"batch_size": 4, "epochs": 1}} | sections),
    )


def labels_of(task, chosen, class_ids=CLASS_IDS, classes=CLASSES):
    raw_labels = [task.example_label(ids, classes, SIZE) for ids in class_ids]
    return task.labels(raw_labels, [(SIZE, SIZE)] * len(raw_labels), chosen)


def to_example(image, label):
    example = tf.train.Example()
    for name, values in ({features.IMAGE_ENCODED: [image]} | label).items():
        feature = example.features.feature[name]
        for value in values:
            if isinstance(value, (str, bytes)):
                feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
            else:
                (feature.float_list if isinstance(value, float) else feature.int64_list).value.append(value)
    return example.SerializeToString()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)


@dataclasses.dataclass
class Case:
    """A trained network of one task and one model."""

    task: tasks.TaskSpec
    options: TrainerOptions
    model: keras.Model
    history: dict


def build(chosen):
    """Builds a network, always with the same weights."""
    keras.utils.set_random_seed(3)
    return network.build(chosen, STATISTICS)


def train(name, chosen, built, images, run_dir):
    """Trains a network; returns it with the history."""
    data = tf.data.Dataset.from_tensor_slices((images, labels_of(tasks.get(name), chosen))).batch(4)
    history = training.train(built, chosen, train_data=data, validation_data=data, run_dir=str(run_dir)).history
    return Case(tasks.get(name), chosen, built, history)


# Every task, and every model, in a graph: trained as users train it, and exported.
IN_GRAPHS = pairs(3)


@pytest.fixture(scope="module", params=[(t, m) for t in tasks.names() for m in models.names()], ids="-".join)
def case(request, images, tmp_path_factory, eagerly):
    name, model = request.param
    with nullcontext() if request.param in IN_GRAPHS else eagerly():
        chosen = options(name, model)
        return train(name, chosen, build(chosen), images, tmp_path_factory.mktemp("run"))


@pytest.fixture(params=tasks.names())
def task(request):
    return tasks.get(request.param)


# --- Every task with every model ----------------------------------------------------------------------------------


def test_the_loss_of_logits_and_labels_reaches_every_trainable_weight(case, images):
    labels = labels_of(case.task, case.options)
    with tf.GradientTape() as tape:
        logits = case.model(tf.cast(images, tf.float32), training=True)
        loss = tf.reduce_mean(case.task.loss(case.options)(labels, logits))
    assert logits.dtype == tf.float32 and logits.shape[0] == COUNT
    assert case.model.get_layer(features.LOGITS_LAYER).output.dtype == "float32"
    assert np.isfinite(loss) and loss > 0
    assert all(gradient is not None for gradient in tape.gradient(loss, case.model.trainable_weights))


def test_an_epoch_records_every_objective(case):
    assert all(np.isfinite(case.history[column]).all() for column in ("loss", "val_loss"))
    for objective in case.task.objectives:
        assert np.isfinite(case.history[objective.name]).all(), objective.name


# What a task exports does not depend on the model, and tracing it takes seconds.
@pytest.mark.parametrize("case", IN_GRAPHS, indirect=True, ids="-".join)
def test_a_session_responds_as_the_keras_model_and_explains_its_predictions(case, images, tmp_path):
    serving_dir = str(tmp_path / "serving")
    encoded = [tf.io.encode_png(image).numpy() for image in images]
    raw_labels = [case.task.example_label(ids, CLASSES, SIZE) for ids in CLASS_IDS]
    examples = [to_example(image, label) for image, label in zip(encoded, raw_labels, strict=True)]
    export.export(
        case.model,
        case.options,
        tft_layer=LabelTransform(case.task, case.options, raw_labels[0]),
        raw_feature_spec=raw_feature_spec(case.task),
        serving_dir=serving_dir,
        run_dir=str(tmp_path),
    )
    session = SessionModel(serving_dir)
    assert set(session.signatures) >= {*case.task.export.required, features.TRANSFORM_FEATURES}
    expected = case.task.predict(case.model, case.options, encoded)
    for signature, values in ((features.SERVING_DEFAULT, encoded), (features.EXAMPLES, examples)):
        response = session.run_on(signature, values)
        assert {len(output) for output in response.values()} == {COUNT}
        agreement = case.task.export.compare(response, expected, case.options, 1e-4)
        assert agreement.passed, f"{signature}: {agreement.detail}"
    swapped = case.task.export.compare(
        session.run_on(features.SERVING_DEFAULT, encoded[::-1]), expected, case.options, 0.0
    )
    assert not swapped.passed and swapped.detail
    assert len(session.run_on(features.TRANSFORM_FEATURES, examples)[features.LABEL]) == COUNT
    explained = session.run_on(features.EXPLAIN, encoded)
    assert explained["heatmap"].shape == (COUNT, SIZE, SIZE)
    assert explained["heatmap"].min() >= 0.0 and explained["heatmap"].max() <= 1.0
    assert explained["score"].min() >= 0.0 and explained["score"].max() <= 1.0
    assert [CLASSES[index] for index in explained["class_id"]] == [name.decode() for name in explained["label"]]
    Image.open(io.BytesIO(explained["overlay_png_bytes"][0])).verify()
    embedding = session.run_on(features.EMBED, encoded)["embedding"]
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1.0, atol=1e-5)
    parsed = [tf.train.Example.FromString(example).features.feature for example in examples]
    training = measured.training_images(session, case.options, [parsed])
    monitored = measured.measure(session, case.options, [parsed[:2], parsed[2:]], training)
    assert monitored.predictions.scores.shape == (COUNT, len(CLASSES)) and len(monitored.embeddings) == COUNT
    assert (np.isnan(monitored.quality) | (monitored.quality >= 0) & (monitored.quality <= 1)).all()
    assert not np.isnan(monitored.statistics).any()
    assert monitored.distances.shape == (COUNT, 2) and not np.isnan(monitored.distances).any()
    session.close()


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(("name", "model"), pairs(0))
def test_mixed_precision_trains_and_is_saved_in_float32(name, model, precision, images, tmp_path, eagerly):
    chosen = options(name, model, training={"batch_size": 4, "epochs": 1, "precision": precision})
    built = build(chosen)
    assert precision.removeprefix("mixed_") in {layer.compute_dtype for layer in built.layers}
    untrained = [weight.numpy() for weight in built.trainable_weights]
    with eagerly():
        trained = train(name, chosen, built, images, tmp_path)
    assert np.isfinite(trained.history["loss"]).all()
    # Loss scaling skips a step whose gradients overflow.
    if precision == "mixed_bfloat16":
        both = zip(untrained, trained.model.trainable_weights, strict=True)
        changed = [not np.array_equal(old, new) for old, new in both]
        # A pyramid level without objects learns no boxes.
        assert np.mean(changed) > (0.9 if name != "detection" else 0.6)
    trained.model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert {layer.compute_dtype for layer in again.layers} == {"float32"}
    np.testing.assert_array_equal(trained.model(images), again(images))


class LabelTransform(tf.Module):
    """Replaces the transform graph: raw features → label.

    An exported function must not create lookup tables: this module creates them once and reuses them in every trace.
    """

    def __init__(self, task, chosen, label):
        """Args: the task; options; an example label."""
        super().__init__()
        self.tables, self._task, self._options = [], task, chosen
        table_class = tf.lookup.StaticHashTable
        with lookup_tables(lambda *args, **kwargs: self.tables.append(table_class(*args, **kwargs)) or self.tables[-1]):
            task.labels([label], [(SIZE, SIZE)], chosen)

    def __call__(self, raw):
        """Returns the transformed features."""
        tables = iter(self.tables)
        with lookup_tables(lambda *args, **kwargs: next(tables)):
            return {features.LABEL: self._task.transform_label(raw, CLASSES, self._options.transform)}


@contextmanager
def lookup_tables(create):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.lookup, "StaticHashTable", create)
        yield


def raw_feature_spec(task):
    return {
        key: tf.io.FixedLenFeature([1], tf.as_dtype(dtype))
        if key in task.single_valued_features
        else tf.io.VarLenFeature(tf.as_dtype(dtype))
        for key, dtype in task.label_features.items()
    }


# --- Labels -------------------------------------------------------------------------------------------------------


def test_an_example_label_has_the_features_of_the_task(task):
    for ids in CLASS_IDS:
        label = task.example_label(ids, CLASSES, SIZE)
        assert set(label) == {*task.label_features, *task.class_features}
        assert all(len(label[key]) == 1 for key in task.single_valued_features)
        assert CLASSES[ids[0]] in set().union(*(label[key] for key in task.class_features))
        for key, dtype in task.label_features.items():
            assert tf.constant(label[key], dtype).dtype == dtype


def test_labels_have_the_declared_dtypes_even_without_values(task):
    dtypes = {"id": "int64", "left": "float32", "name": "string"}
    given = {}

    def transform_label(inputs, classes, transform):
        given.update(inputs)
        return tf.zeros([2])

    spec = dataclasses.replace(
        task,
        label_features=dtypes,
        single_valued_features=("id",),
        transform_label=transform_label,
        read_label=lambda transformed, transform: transformed[features.LABEL],
    )
    raw_labels = [{"id": [7], "left": [], "name": []}, {"id": [8], "left": [], "name": []}]
    spec.labels(raw_labels, [(SIZE, SIZE)] * 2, options(task.name))
    assert {key: tensor.dtype for key, tensor in given.items()} == dtypes
    assert given["id"].shape == (2, 1) and given["left"].dense_shape.numpy().tolist() == [2, 0]


def test_labels_are_the_classes_of_the_raw_example(task):
    chosen = options(task.name)
    labels = labels_of(task, chosen).numpy()
    assert len(labels) == COUNT
    instances = task.explanation.true_instances(labels, chosen)
    indices, class_ids = instances.indices, instances.subject.class_ids
    for index, ids in enumerate(CLASS_IDS):
        label = task.example_label(ids, CLASSES, SIZE)
        names = {name for key in task.class_features for name in label[key]}
        assert {CLASSES[class_id] for class_id in class_ids[indices == index]} == names


def test_a_label_with_an_unknown_class_does_not_train(task, images):
    chosen = options(task.name)
    model = network.build(chosen, STATISTICS)
    with tf.GradientTape() as tape:
        logits = model(tf.cast(images[:1], tf.float32), training=False)
        tape.watch(logits)
        try:
            loss = task.loss(chosen)(labels_of(task, chosen, [(3, 3)], (*CLASSES, "unknown")), logits)
        except (ValueError, tf.errors.InvalidArgumentError):
            return
    np.testing.assert_array_equal(tape.gradient(loss, logits), np.zeros(logits.shape))


# --- Options ------------------------------------------------------------------------------------------------------


def test_unsupported_augmentation_is_rejected(task):
    for key in task.unsupported_augmentation:
        assert key in AugmentationOptions.model_fields
        with pytest.raises(ValidationError, match=rf"augmentation\.{key} does not support"):
            options(task.name, augmentation={key: 0.5})


@pytest.mark.parametrize(
    ("task", "key"),
    [
        (name, key)
        for name in tasks.names()
        for key in ("rotation", "random_erasing", "mixup", "cutmix")
        if key not in tasks.get(name).unsupported_augmentation
    ],
    indirect=["task"],
)
def test_supported_augmentation_keeps_labels_valid(task, images, key):
    chosen = options(task.name, augmentation={key: 0.5})
    labels = labels_of(task, chosen)
    augmented, *targets = task.augment(chosen)(tf.constant([1, 2]), tf.constant(images), labels)
    assert augmented.shape == images.shape and len(targets) == 1 and len(targets[0]) == COUNT
    logits = network.build(chosen, STATISTICS)(tf.cast(augmented, tf.float32))
    assert np.isfinite(task.loss(chosen)(targets[0], logits))


def test_options_of_the_loss_and_conditions_exist(task):
    assert set(task.options.model_fields) >= {"name", *task.loss_options, *task.option_conditions}
    assert task.options().name == task.name
    for condition in task.option_conditions.values():
        assert condition.text and isinstance(condition.holds(task.options()), bool)


def test_texts_describe_the_task(task):
    assert task.label_noun and task.export.command
    assert {objective.direction for objective in task.objectives} <= {"min", "max"}
    assert "val_loss" in {objective.name for objective in task.objectives}
