"""Conformance of every model in the registry."""

import contextlib
import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from pydantic import ValidationError

from components.serving_validator import graph_walk
from trainer_module import augmentation, backbones, export, features, grad_cam, keras_file, models, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import AugmentationOptions, TrainerOptions, TransformOptions
from trainer_module.session_model import SessionModel
from trainer_module.tasks import classification

STATISTICS = PixelStatistics(np.array([100.0, 110.0, 120.0], np.float32), np.array([900.0, 400.0, 2500.0], np.float32))
ALL_AUGMENTATIONS = AugmentationOptions(
    horizontal_flip=True, rotation=0.1, zoom=0.2, translation=0.2, contrast=0.3, brightness=0.2, random_erasing=0.5
)


# Variants of models that must conform too.
VARIANTS = {
    "scratch_cnn separable": {"convolution": "separable", "downsampling": "stride", "pooling": "flatten"},
    "scratch_cnn mobilenet": {"convolution": "mobilenet", "downsampling": "average", "pooling": "global_max"},
    "scratch_cnn mixed": {
        "convolution": ["standard", "mobilenet", "separable"],
        "downsampling": ["average", "stride", "max"],
        "pooling": "flatten",
    },
    "transfer stride": {"feature_stride": 8},
}


def options(name: str, **sections) -> TrainerOptions:
    name, keys = name.partition(" ")[0], dict(VARIANTS.get(name, {}))
    task = {"name": "classification", **{key: keys.pop(key) for key in ("pooling",) if key in keys}}
    model, normalization = {"name": name, **keys}, "dataset"
    if models.get(name).options().has_backbone():
        model, normalization = {"name": name, "weights": "none", **keys}, "backbone"
    return TrainerOptions(
        classes=("a", "b", "c"),
        transform=TransformOptions(image_size=32, normalization=normalization),
        **{"task": task, "model": model} | sections,
    )


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=[*models.names(), *VARIANTS])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name, small_backbones):
    """The network of a model, which its tests share: a backbone takes a second to build, and one real one is enough."""
    with contextlib.nullcontext() if name == "transfer" else small_backbones():
        return build_network(options(name), STATISTICS)


def test_shapes_and_named_layers(model, images):
    assert model(images).shape == (4, 3)
    assert len(model.get_layer(features.FEATURES_LAYER).output.shape) == 4
    assert len(model.get_layer(features.POOLED_LAYER).output.shape) == 2
    assert len(model.get_layer(features.EMBEDDING_LAYER).output.shape) == 2


def test_a_backbone_may_end_at_a_smaller_stride():
    whole = backbones.get("mobilenet_v2").build(image_size=32, weights="none")
    for stride, channels in ((4, 144), (8, 192), (16, 576), (32, 1280)):
        chosen = options("transfer", model={"name": "transfer", "weights": "none", "feature_stride": stride})
        base = build_network(chosen, STATISTICS).get_layer(features.BACKBONE_LAYER)
        assert base.output.shape[1:] == (32 // stride, 32 // stride, channels)
        assert [layer.name for layer in base.layers] == [layer.name for layer in whole.layers][: len(base.layers)]


def test_the_keras_file_has_the_same_predictions(model, images, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(model(images), again(images))


def test_augmentation_is_active_in_training_only(model, images):
    fitted = augmentation.in_model(model, ALL_AUGMENTATIONS, seed=3)
    logits = model(images).numpy()
    np.testing.assert_array_equal(logits, fitted(images, training=False))
    np.testing.assert_array_equal(logits, model(images))  # the saved model has no random layer
    assert {id(weight) for weight in model.weights} <= {id(weight) for weight in fitted.weights}
    trained = model(images, training=True)
    different = [np.abs(fitted(images, training=True) - trained).max() for _ in range(3)]
    # The logits of a deep network with random weights are very small.
    assert min(different) > 1e-3 * min(1.0, float(np.abs(logits).max()))


def test_without_augmentation_the_model_is_unchanged(model):
    assert augmentation.in_model(model, AugmentationOptions(), seed=3) is model


def test_a_single_image_has_the_same_logits_as_in_a_batch(model, images):
    singly = np.concatenate([model(images[i : i + 1]) for i in range(len(images))])
    np.testing.assert_allclose(model(images), singly, atol=1e-5)


def test_every_trainable_weight_gets_a_gradient(name, model, images):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tasks.get("classification").loss(options(name))(
            np.array([0, 1, 2, 0]), model(tf.cast(images, tf.float32), training=True)
        )
    gradients = tape.gradient(loss, model.trainable_weights)
    assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in models.names() if models.get(name).options().has_backbone()])
def test_missing_weights_are_detected_before_the_network_is_built(name, tmp_path):
    section = models.get(name).options
    with pytest.raises(backbones.MissingWeightsError, match=r"absent\.weights\.h5"):
        section(weights=str(tmp_path / "absent.weights.h5")).check_weights(64)
    section(weights=backbones.RANDOM).check_weights(64)


def test_an_unknown_key_is_rejected(name):
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(options(name).model)(no_such_key=1)


def test_the_error_for_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown model 'vgg'\. Known models: .*scratch_cnn"):
        models.get("vgg")


def test_normalisation_with_the_statistics_of_the_dataset(images):
    model = build_network(options("scratch_cnn"), STATISTICS)
    normalized = model.get_layer("normalize")(images.astype(np.float32))
    expected = (images - STATISTICS.mean) / np.sqrt(STATISTICS.variance)
    np.testing.assert_allclose(normalized, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options_", "side"), [({}, 8), ({"blocks": [[4]]}, 32), ({"blocks": [[4], [4], [4], [4], [4], [4]]}, 1)]
)
@pytest.mark.parametrize("downsampling", ["max", "average", "stride"])
def test_scratch_cnn_halves_the_image_between_blocks(options_, side, downsampling):
    model = scratch_cnn(32, downsampling=downsampling, **options_)
    assert model.get_layer(features.FEATURES_LAYER).output.shape[1:3] == (side, side)
    pools = sum(layer.name.endswith("_pool") for layer in model.layers)
    assert 2**pools * side == (side if downsampling == "stride" else 32)


@pytest.mark.parametrize("convolution", ["standard", "separable", "mobilenet"])
@pytest.mark.parametrize(
    ("downsampling", "smallest"),
    [
        ("max", 8),
        ("average", 8),
        ("stride", 1),  # rounds up: one position remains
        (["max", "stride", "stride", "max"], 2),
        (["stride", "max", "stride", "max"], 3),
        (["stride", "stride", "max", "stride"], 5),
        (["max", "max", "stride", "stride"], 4),
    ],
)
def test_smallest_image_of_scratch_cnn(convolution, downsampling, smallest):
    keys = {"blocks": [[2], [2, 2], [2], [2]], "convolution": convolution, "downsampling": downsampling}
    assert models.get("scratch_cnn").options(**keys).smallest_image() == smallest
    assert scratch_cnn(smallest, **keys).get_layer(features.FEATURES_LAYER).output.shape[1:3] == (1, 1)
    if smallest > 1:
        with pytest.raises(ValueError, match="zero or negative"):
            scratch_cnn(smallest - 1, **keys)


def scratch_cnn(side: int, **keys) -> keras.Model:
    """Builds the network for any image size, including those that `[transform]` rejects."""
    x = keras.Input([side, side, 3])
    spec = models.get("scratch_cnn")
    return keras.Model(x, spec.build(spec.options(**keys), x).encoded)


def test_the_stride_is_in_the_last_convolution_of_a_block():
    strides = {}
    for convolution in ("standard", "separable", "mobilenet"):
        model = scratch_cnn(16, blocks=[[2, 2], [2]], convolution=convolution, downsampling="stride")
        strides[convolution] = {layer.name: layer.strides[0] for layer in model.layers if hasattr(layer, "strides")}
    assert strides["standard"] == strides["separable"] == {"block1_conv1": 1, "block1_conv2": 2, "block2_conv1": 1}
    assert {name: stride for name, stride in strides["mobilenet"].items() if stride != 1} == {"block1_depthwise2": 2}


@pytest.mark.parametrize("head", ["global_average", "global_max", "flatten"])
def test_the_head_pools_the_last_map_as_configured(head, images):
    model = build_network(options("scratch_cnn", task={"pooling": head}), STATISTICS)
    inner = keras.Model(model.input, [model.get_layer(name).output for name in (features.FEATURES_LAYER, "pooled")])
    maps, pooled = (np.asarray(value) for value in inner(images))
    expected = {
        "global_average": maps.mean(axis=(1, 2)),
        "global_max": maps.max(axis=(1, 2)),
        "flatten": maps.reshape(len(maps), -1),
    }
    np.testing.assert_allclose(pooled, expected[head], rtol=1e-5, atol=1e-6)


def test_responses_of_a_session_equal_those_of_the_network(images, tmp_path, monkeypatch):
    import tensorflow as tf

    class NoTransform(tf.Module):
        def __call__(self, raw):
            return {features.LABEL: tf.strings.length(raw[features.CLASS_TEXT])}

    spec = {features.CLASS_TEXT: tf.io.FixedLenFeature([], tf.string)}
    task = classification.TASK

    def signatures(*args):  # tracing takes seconds per signature
        made = task.export.signatures(*args)
        return {key: made[key] for key in ("serving_default", "explain", "embed")}

    replaced = dataclasses.replace(task, export=dataclasses.replace(task.export, signatures=signatures))
    monkeypatch.setattr(classification, "TASK", replaced)
    given = options("scratch_cnn mixed")
    model = build_network(given, STATISTICS)
    serving_dir = str(tmp_path / "serving")
    export.export(
        model,
        given,
        tft_layer=NoTransform(),
        raw_feature_spec=spec,
        serving_dir=serving_dir,
        run_dir=str(tmp_path / "run"),
    )
    assert graph_walk.not_allowed(graph_walk.read(serving_dir)) == []
    session = SessionModel(serving_dir)
    encoded = [tf.io.encode_png(image).numpy() for image in images]
    expected = tf.nn.softmax(model(images, training=False)).numpy()
    np.testing.assert_allclose(session.run_on("serving_default", encoded)["probabilities"], expected, atol=1e-5)
    explain = grad_cam.explainer(model, classification.TASK.explanation)
    explained = session.run_on("explain", encoded)["heatmap"]
    np.testing.assert_allclose(explained, explain(tf.constant(images)).heatmap, atol=1e-4)
    assert explained.max() == 1.0
    assert session.run_on("embed", encoded)["embedding"].shape == (4, 256)
    session.close()


def test_scratch_cnn_default_size():
    # Kernel height x width x input channels x filters, no bias; 4 values per filter for batch normalisation.
    convolutions = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128)]
    expected = sum(9 * c_in * c_out + 4 * c_out for c_in, c_out in convolutions)
    expected += 128 * 256 + 256 + 256 * 3 + 3
    model = build_network(options("scratch_cnn"), STATISTICS)
    in_normalisation = model.get_layer("normalize").count_params()
    assert model.count_params() - in_normalisation == expected


def test_a_keras_file_loads_in_a_process_that_has_built_no_model():
    """Every module with a layer of the project is imported before the file is read."""
    folder = Path(keras_file.__file__).parent
    modules = [
        path
        for path in folder.rglob("*.py")
        if re.search(r"@keras\.saving\.register_keras_serializable.*\nclass \w+\(keras\.layers", path.read_text())
    ]
    assert modules
    imported = Path(keras_file.__file__).read_text()
    for path in modules:
        assert re.search(rf"import (\w+, )*{path.stem}\b", imported), path
