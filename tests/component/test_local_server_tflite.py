"""TFLite models, for `--prefer_tflite_model`, and operations of other packages."""

import copy

import flatbuffers
import httpx
import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema

from serving.local_server import custom_operations, session
from serving.local_server.errors import RequestError
from serving.local_server.protos import config_pb2
from serving.local_server.servable import LoadOptions
from serving.local_server.server_options import ServerOptions
from serving.local_server.tflite import Interpreters

OPTIONS = ServerOptions(load=LoadOptions(prefer_tflite=True))


@pytest.fixture(scope="module")
def converted():
    """Returns half plus two as TFLite models: with a signature, with one in TF Serving's metadata, without any."""

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def __call__(self, x):
            return {"y": 0.5 * x + 2.0}

    model = Model()
    function = model.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    with_signature = converter.convert()
    parsed = schema.ModelT.InitFromPackedBuf(with_signature)
    parsed.signatureDefs = []
    models = {"signature": with_signature, "names": packed(parsed)}
    names = Interpreters(models["names"]).meta_graph.signature_def["serving_default"]
    definition = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for infos, alias, named in ((definition.inputs, "x", names.inputs), (definition.outputs, "y", names.outputs)):
        (info,) = named.values()
        infos[alias].name, infos[alias].dtype = info.name, info.dtype  # no shape: -1 is not a text of Python
    models["metadata"] = packed(with_metadata(parsed, {"serving_default": definition.SerializeToString()}))
    models["damaged metadata"] = packed(with_metadata(parsed, {"serving_default": b"no message"}))
    definition.inputs["x"].name = "elsewhere:0"
    models["unknown tensor"] = packed(with_metadata(parsed, {"serving_default": definition.SerializeToString()}))
    return models


def packed(parsed):
    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def with_metadata(parsed, signatures):
    """Returns the model with signatures as TF Serving's converter stored them: a map of strings."""
    builder = flexbuffers.Builder()
    with builder.Map():
        for name, content in signatures.items():
            builder.String(name, content.decode())
    parsed = copy.deepcopy(parsed)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(bytes(builder.Finish()), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"signature_defs_metadata", len(parsed.buffers)
    parsed.buffers.append(buffer)
    parsed.metadata = [*(parsed.metadata or []), entry]
    return parsed


def write(folder, content):
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(content)


@pytest.mark.parametrize("kind", ["signature", "metadata", "names"])
def test_a_tflite_model_is_served(start_server, converted, tmp_path, kind):
    write(tmp_path / "m" / "1", converted[kind])
    server = start_server("m", tmp_path / "m", options=OPTIONS)
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/m"
    definition = httpx.get(f"{url}/metadata", trust_env=False).json()["metadata"]["signature_def"]["signature_def"]
    (alias,) = definition["serving_default"]["inputs"]
    assert definition["serving_default"]["inputs"][alias]["dtype"] == "DT_FLOAT"
    assert alias == "x" if kind != "names" else ":" not in alias
    for rows in ([[1.0]], [[2.0], [4.0], [6.0]]):
        response = httpx.post(f"{url}:predict", json={"instances": rows}, trust_env=False)
        assert response.json() == {"predictions": [[0.5 * value + 2] for (value,) in rows]}
    response = httpx.post(f"{url}:predict", json={"inputs": {"no": 1}}, trust_env=False)
    assert response.status_code == 400


def test_a_saved_model_is_preferred_without_the_flag_and_used_if_there_is_no_other(
    start_server, push_toy, converted, tmp_path
):
    folder = push_toy(tmp_path / "toy", 1)
    (folder / "model.tflite").write_bytes(converted["signature"])
    with_flag = start_server("toy", tmp_path / "toy", options=OPTIONS)
    with with_flag.source.use("toy") as servable:
        assert set(servable.signatures) == {"serving_default"}
    without = start_server("toy", tmp_path / "toy")
    with without.source.use("toy") as servable:
        assert "classify" in servable.signatures
    write(tmp_path / "lite" / "1", converted["signature"])
    assert not start_server("lite", tmp_path / "lite").source.ready()
    push_toy(tmp_path / "other", 1)
    assert start_server("other", tmp_path / "other", options=OPTIONS).source.ready()


def test_errors_of_tflite_models(start_server, converted, tmp_path):
    write(tmp_path / "m" / "1", b"not a model")
    (version,) = start_server("m", tmp_path / "m", options=OPTIONS).source.status("m")
    assert version.error_code == "INVALID_ARGUMENT" and "model.tflite cannot be loaded" in version.error_message
    with pytest.raises(RequestError, match="Invalid SignatureDefs found in TfLite model"):
        Interpreters(converted["damaged metadata"])
    with pytest.raises(RequestError, match="Unknown tensor 'elsewhere:0'"):
        Interpreters(converted["unknown tensor"])
    model = Interpreters(converted["names"])
    (name,) = (info.name for info in model.meta_graph.signature_def["serving_default"].inputs.values())
    with pytest.raises(RequestError, match="Unknown tensor 'z'"):
        model.run({name: np.ones((1, 1), np.float32)}, ["z"])
    with pytest.raises(RequestError) as raised:
        model.run({name: np.ones((1, 1), np.int64)}, [])
    assert raised.value.code == "INVALID_ARGUMENT"


# --- Operations that are not part of TensorFlow -----------------------------------------------------------------


def test_a_missing_operation_names_the_package_and_the_extra(push_toy, tmp_path, monkeypatch):
    folder = push_toy(tmp_path / "toy", 1)
    graph = folder / "saved_model.pb"
    # An operation of tensorflow_text with a name as long as that of the original.
    graph.write_bytes(graph.read_bytes().replace(b"ParseExampleV2", b"WhitespaceToke"))
    monkeypatch.setattr(custom_operations, "_libraries", list)
    with pytest.raises(RequestError) as raised:
        session.Session(str(folder), ["serve"], config_pb2.ConfigProto())
    assert raised.value.code == "NOT_FOUND"
    assert "WhitespaceToke" in raised.value.message and 'pip install "tfx-vision[text]"' in raised.value.message


def test_the_operations_of_an_installed_package_are_loaded_once(tmp_path, monkeypatch):
    library = tmp_path / "tensorflow_text" / "python" / "ops" / "_ops.so"
    library.parent.mkdir(parents=True)
    library.touch()
    (tmp_path / "tensorflow_text" / "__init__.py").write_text("raise AssertionError('not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    registered = []

    def load():
        if not registered:
            raise RequestError("NOT_FOUND", "Op type not registered 'TFText>Tokenize' in binary")

    custom_operations.loading(load, registered.append)
    assert registered == [library]
    with pytest.raises(RequestError, match="something else"):
        custom_operations.loading(raising("something else"), registered.append)
    assert registered == [library]


def raising(message):
    def load():
        raise RequestError("INTERNAL", message)

    return load
