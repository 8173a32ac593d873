"""A REST call as the equal messages of gRPC, for the log: JSON has no types, so the signature of the target decides."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from serving import wire
from serving.local_server import json_examples, json_tensor, json_text
from serving.local_server.metadata import SIGNATURE_DEF
from serving.local_server.protos import get_model_metadata_pb2, meta_graph_pb2, model_pb2, prediction_log_pb2
from serving.local_server.rest import Selection
from serving.local_server.result_messages import classify_log, predict_log, regress_log
from serving.request_log.content import Fill
from trainer_module.features import SERVING_DEFAULT

_TIMEOUT_S = 10.0
_CACHED_S = 5.0


@dataclass(frozen=True)
class ServedModel:
    """The version that a selection meant at some time, and its signatures."""

    version: int
    signatures: Mapping[str, Any]


class ModelMetadata:
    """Asks the target for the signatures of its models; keeps the answers for some seconds."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Takes the channel to the target."""
        self._call = channel.unary_unary(
            wire.METADATA_METHOD,
            get_model_metadata_pb2.GetModelMetadataRequest.SerializeToString,
            get_model_metadata_pb2.GetModelMetadataResponse.FromString,
        )
        self._known: dict[Selection, tuple[float, ServedModel]] = {}
        self._lock = threading.Lock()

    def get(self, selection: Selection) -> ServedModel:
        """Returns the model of a selection.

        Raises:
          grpc.RpcError: If the target does not respond.
        """
        with self._lock:
            asked, model = self._known.get(selection, (0.0, None))
            if model is not None and time.monotonic() - asked < _CACHED_S:
                return model
            model = self._ask(selection)
            if len(self._known) > 1000:
                self._known.clear()
            self._known[selection] = (time.monotonic(), model)
            return model

    def _ask(self, selection: Selection) -> ServedModel:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[SIGNATURE_DEF])
        request.model_spec.name = selection.name
        if selection.version is not None:
            request.model_spec.version.value = selection.version
        elif selection.label is not None:
            request.model_spec.version_label = selection.label
        response = self._call(request, timeout=_TIMEOUT_S)
        signatures = get_model_metadata_pb2.SignatureDefMap.FromString(response.metadata[SIGNATURE_DEF].value)
        return ServedModel(response.model_spec.version.value, signatures.signature_def)


def fill(
    log: prediction_log_pb2.PredictionLog,
    metadata: ModelMetadata,
    selection: Selection,
    verb: str,
    request: bytes,
    response: bytes,
) -> None:
    """Writes a REST call into a log; asks for the signature, and parses the bodies.

    Args:
      log: An empty log.
      metadata: The models of the target.
      selection: The model of the path.
      verb: "predict", "classify" or "regress".
      request: Body, not compressed.
      response: Body of a successful response, not compressed.
    """
    model = metadata.get(selection)
    asked, answered = json_text.parse(request), json_text.parse(response)
    signature = json_tensor.signature_name(asked) or SERVING_DEFAULT
    spec = model_pb2.ModelSpec(name=selection.name, signature_name=signature)
    spec.version.value = model.version
    _MESSAGES[verb](spec, model.signatures[signature], asked, answered)(log)


def _predict(spec: Any, signature: meta_graph_pb2.SignatureDef, asked: Any, answered: Any) -> Fill:
    inputs, _ = json_tensor.to_tensors(asked, signature.inputs)
    rows = "predictions" in answered
    values = {"instances": answered["predictions"]} if rows else {"inputs": answered["outputs"]}
    outputs, _ = json_tensor.to_tensors(values, signature.outputs)
    return predict_log(spec, inputs, outputs)


def _classify(spec: Any, signature: meta_graph_pb2.SignatureDef, asked: Any, answered: Any) -> Fill:
    rows = [[(label, float(score)) for label, score in row] for row in answered["results"]]
    return classify_log(spec, json_examples.to_input(asked), rows)


def _regress(spec: Any, signature: meta_graph_pb2.SignatureDef, asked: Any, answered: Any) -> Fill:
    return regress_log(spec, json_examples.to_input(asked), [float(value) for value in answered["results"]])


_MESSAGES: dict[str, Callable[[Any, Any, Any, Any], Fill]] = {
    "predict": _predict,
    "classify": _classify,
    "regress": _regress,
}
