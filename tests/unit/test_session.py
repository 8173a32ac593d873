"""The session of TensorFlow's C API, in a process that never imports TensorFlow."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from serving.local_server.errors import RequestError
from serving.local_server.protos import config_pb2
from serving.local_server.session import Session

# What a server does, and what may import the package afterwards: remote files, the profiler, TFLite models.
PROCESS = """
import json, sys
import numpy as np
from serving.local_server import c_library

c_library.load()
from serving.local_server import command, server
from serving.local_server.loader import load
from serving.local_server.servable import LoadOptions

model = load(sys.argv[1], LoadOptions())
definition = model.meta_graph.signature_def["serving_default"]
feeds = {definition.inputs["x"].name: np.ones((2, 1), np.float32)}
outputs = model.run(feeds, [definition.outputs["y"].name], 5.0)
heavy = {"tensorflow", "keras", "uvicorn", "tfx", "pandas"} & set(sys.modules)
lines = open("/proc/self/status").read().splitlines()
# Without the pages of libraries: how many of them are mapped depends on the kernel's read-ahead.
megabytes = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
print(json.dumps([outputs[0].tolist(), sorted(heavy), megabytes, len(sys.modules)]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.b = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def __call__(self, x):
            return {"y": 0.5 * x + self.b}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.string, name="s")])
        def strings(self, s):
            return {"s": s, "empty": tf.zeros([0, 3]), "half": tf.constant([1.5], tf.bfloat16), "flag": s == ""}

    model, path = Model(), tmp_path_factory.mktemp("session") / "1"
    signatures = {"serving_default": model.__call__, "strings": model.strings}
    tf.saved_model.save(model, str(path), signatures=signatures)
    return path


def test_a_server_imports_neither_tensorflow_nor_keras(folder):
    done = subprocess.run([sys.executable, "-c", PROCESS, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    outputs, heavy, megabytes, modules = json.loads(done.stdout)
    assert outputs == [[2.5], [2.5]] and heavy == []
    assert megabytes < 150 and modules < 900


@pytest.fixture(scope="module")
def session(folder):
    opened = Session(str(folder), ["serve"], config_pb2.ConfigProto(intra_op_parallelism_threads=1))
    yield opened
    opened.close()


def test_values_of_every_kind(session):
    definition = session.meta_graph.signature_def["strings"]
    names = ("s", "empty", "half", "flag")
    for value in (np.array(["x" * 500, b"", b"a\0b"], object), np.array([], object), np.array(b"ab", object)):
        value = np.array([item.encode() if isinstance(item, str) else item for item in value.ravel()], object).reshape(
            value.shape
        )
        feeds = {definition.inputs["s"].name: value}
        strings, empty, half, flag = session.run(feeds, [definition.outputs[name].name for name in names])
        assert strings.dtype == object and strings.shape == value.shape
        assert strings.ravel().tolist() == value.ravel().tolist()
        assert empty.shape == (0, 3) and float(half[0]) == 1.5
        assert flag.dtype == bool and flag.ravel().tolist() == [item == b"" for item in value.ravel()]


@pytest.mark.parametrize(
    ("feeds", "fetches", "message"),
    [
        ({"no_such:0": np.zeros(1, np.float32)}, [], "was not found in the Graph"),
        ({}, ["serving_default_x:7"], "was not found in the Graph"),
        ({"serving_default_x:0": np.zeros(1, np.int32)}, ["StatefulPartitionedCall:0"], "int32"),
        ({}, ["StatefulPartitionedCall:0"], "serving_default_x"),
        ({"serving_default_x:0": np.zeros(1, "datetime64[s]")}, [], "cannot be fed"),
    ],
)
def test_invalid_calls_are_errors(session, feeds, fetches, message):
    with pytest.raises(RequestError, match=message) as raised:
        session.run(feeds, fetches)
    assert raised.value.code == "INVALID_ARGUMENT"


def test_missing_models_and_tags_are_errors(folder, tmp_path):
    for path, tags in ((tmp_path, ["serve"]), (folder, ["train"])):
        with pytest.raises(RequestError) as raised:
            Session(str(path), tags, config_pb2.ConfigProto())
        assert raised.value.code == "NOT_FOUND" and raised.value.message
