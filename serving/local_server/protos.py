"""The protocol buffers of TensorFlow and TF Serving, imported without TensorFlow.

The generated modules are in the packages `tensorflow` and `tensorflow_serving`, and importing the first one takes ten
seconds and 400 MB. A server needs its messages only.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator

from serving.local_server import c_library


@contextlib.contextmanager
def _messages_only() -> Iterator[None]:
    """Makes modules of `tensorflow` importable without executing the package's `__init__`."""
    if "tensorflow" in sys.modules:
        yield
        return
    package = types.ModuleType("tensorflow")
    package.__path__ = [str(c_library.folder())]
    sys.modules["tensorflow"] = package
    try:
        yield
    finally:
        del sys.modules["tensorflow"]  # what imports TensorFlow later gets all of it


with _messages_only():
    from tensorflow.core.example import example_pb2 as example_pb2
    from tensorflow.core.example import feature_pb2 as feature_pb2
    from tensorflow.core.framework import tensor_pb2 as tensor_pb2
    from tensorflow.core.protobuf import config_pb2 as config_pb2
    from tensorflow.core.protobuf import meta_graph_pb2 as meta_graph_pb2
    from tensorflow.tsl.profiler.protobuf import xplane_pb2 as xplane_pb2
    from tensorflow_serving.apis import classification_pb2 as classification_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2 as get_model_metadata_pb2
    from tensorflow_serving.apis import get_model_status_pb2 as get_model_status_pb2
    from tensorflow_serving.apis import inference_pb2 as inference_pb2
    from tensorflow_serving.apis import input_pb2 as input_pb2
    from tensorflow_serving.apis import model_management_pb2 as model_management_pb2
    from tensorflow_serving.apis import model_pb2 as model_pb2
    from tensorflow_serving.apis import model_service_pb2_grpc as model_service_pb2_grpc
    from tensorflow_serving.apis import predict_pb2 as predict_pb2
    from tensorflow_serving.apis import prediction_log_pb2 as prediction_log_pb2
    from tensorflow_serving.apis import prediction_service_pb2_grpc as prediction_service_pb2_grpc
    from tensorflow_serving.apis import regression_pb2 as regression_pb2
    from tensorflow_serving.config import model_server_config_pb2 as model_server_config_pb2

    # Code of an old compiler: it registers the file with the service, which reflection shows, and then fails.
    for _module in ("prediction_service_pb2", "model_service_pb2"):
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{_module}")
