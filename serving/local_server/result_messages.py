"""Results of the calls as TF Serving's messages: for gRPC's responses, and for the log of a REST call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.local_server import tensors
from serving.local_server.protos import classification_pb2, input_pb2, model_pb2, prediction_log_pb2, regression_pb2
from serving.local_server.servable import Servable
from serving.request_log.content import Fill
from trainer_module.features import SERVING_DEFAULT


def model_spec(servable: Servable, signature: str) -> model_pb2.ModelSpec:
    """Returns name, version and signature that responded."""
    spec = model_pb2.ModelSpec(name=servable.name, signature_name=signature or SERVING_DEFAULT)
    spec.version.value = servable.version
    return spec


def fill_classes(result: classification_pb2.ClassificationResult, classes: Any) -> None:
    """Writes the result of `inference.classify`."""
    for row in classes:
        classification = result.classifications.add()
        for label, score in row:
            classification.classes.add(label=label, score=score)


def fill_regressions(result: regression_pb2.RegressionResult, values: Any) -> None:
    """Writes the result of `inference.regress`."""
    for value in values:
        result.regressions.add(value=value)


def predict_log(spec: model_pb2.ModelSpec, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Fill:
    """Returns what writes a call of Predict into a log."""

    def fill(log: prediction_log_pb2.PredictionLog) -> None:
        part = log.predict_log
        part.request.model_spec.CopyFrom(spec)
        part.response.model_spec.CopyFrom(spec)
        for alias, value in inputs.items():
            tensors.to_proto(value, part.request.inputs[alias])
        for alias, value in outputs.items():
            tensors.to_proto(value, part.response.outputs[alias])

    return fill


def classify_log(spec: model_pb2.ModelSpec, examples: input_pb2.Input, results: Any) -> Fill:
    """Returns what writes a call of Classify into a log."""

    def fill(log: prediction_log_pb2.PredictionLog) -> None:
        _fill_call(log.classify_log, spec, examples)
        fill_classes(log.classify_log.response.result, results)

    return fill


def regress_log(spec: model_pb2.ModelSpec, examples: input_pb2.Input, results: Any) -> Fill:
    """Returns what writes a call of Regress into a log."""

    def fill(log: prediction_log_pb2.PredictionLog) -> None:
        _fill_call(log.regress_log, spec, examples)
        fill_regressions(log.regress_log.response.result, results)

    return fill


def _fill_call(part: Any, spec: model_pb2.ModelSpec, examples: input_pb2.Input) -> None:
    part.request.model_spec.CopyFrom(spec)
    part.request.input.CopyFrom(examples)
    part.response.model_spec.CopyFrom(spec)
