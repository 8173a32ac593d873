"""The calls of a loaded version: Predict, Classify, Regress and MultiInference.

Source: TF Serving's servables/tensorflow/{predict_util,classifier,regressor,multi_inference,util}.cc. As there, the
graph checks the shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.local_server import dtypes, monitoring, tensors
from serving.local_server.caller import Caller
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.protos import inference_pb2, input_pb2
from serving.local_server.servable import Servable
from trainer_module.features import SERVING_DEFAULT

CLASSIFY_METHOD, REGRESS_METHOD = "tensorflow/serving/classify", "tensorflow/serving/regress"
_CLASSES, _SCORES, _INPUTS, _OUTPUTS = "classes", "scores", "inputs", "outputs"

Classes = list[list[tuple[str, float]]]


def predict(
    servable: Servable,
    signature_name: str,
    inputs: Mapping[str, np.ndarray],
    output_filter: Sequence[str],
    caller: Caller,
) -> dict[str, np.ndarray]:
    """Runs a signature.

    Args:
      servable: The loaded version.
      signature_name: Empty means `serving_default`.
      inputs: By alias; strings as object arrays of bytes.
      output_filter: Names of the outputs to return; empty means all.
      caller: Who waits for the outputs.
    """
    signature_name = signature_name or SERVING_DEFAULT
    if signature_name not in servable.signatures:
        raise RequestError("FAILED_PRECONDITION", f'Serving signature key "{signature_name}" not found.')
    definition = servable.signatures[signature_name]
    feeds = _feeds(definition, inputs)
    for position, alias in enumerate(output_filter):
        if alias not in definition.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_set(definition.outputs)}."
            )
        if alias in output_filter[:position]:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
    aliases = list(output_filter) or sorted(definition.outputs)
    values = servable.run(feeds, [definition.outputs[alias].name for alias in aliases], "Predict", caller)
    return dict(zip(aliases, values, strict=True))


def _feeds(definition: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    expected = definition.inputs
    if len(inputs) > len(expected) or (len(inputs) < len(expected) and not definition.defaults):
        comparison = f"{len(inputs)}!={len(expected)} len({_set(inputs)}) != len({_set(expected)})"
        raise invalid_argument(
            f"input size does not match signature: {comparison}. Sent extra: {_set(set(inputs) - set(expected))}. "
            f"Missing but required: {_set(set(expected) - set(inputs))}."
        )
    feeds = {}
    for index, alias in enumerate(sorted(expected)):
        info = expected[alias]
        if alias in inputs:
            value = inputs[alias]
        elif alias in definition.defaults:
            value = tensors.to_numpy(definition.defaults[alias], alias)
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request. "
                f"Inputs expected to be in the set {_set(expected)}."
            )
        data_type = dtypes.of_array(value)
        if data_type.number != info.dtype:
            names = f"{dtypes.of_number(info.dtype).name} but {data_type.name}"
            raise invalid_argument(f"Expects arg[{index}] to be {names} is provided")
        feeds[info.name] = value
    return feeds


def _set(names: Iterable[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"


def classify(servable: Servable, signature_name: str, request: input_pb2.Input, caller: Caller) -> Classes:
    """Runs a Classify signature; returns (label, score) of every class for every example.

    Labels are empty, or scores 0, if the signature does not return them.
    """
    definition = _definition(servable, signature_name)
    feed, fetches = _classification(definition)
    values = _run(servable, [feed], fetches, request, "Classify", caller)
    return _classes(definition, fetches, values)


def regress(servable: Servable, signature_name: str, request: input_pb2.Input, caller: Caller) -> list[float]:
    """Runs a Regress signature; returns a number for every example."""
    definition = _definition(servable, signature_name)
    feed, fetches = _regression(definition)
    return _regressions(definition, fetches, _run(servable, [feed], fetches, request, "Regress", caller))


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest, caller: Caller
) -> list[Classes | list[float]]:
    """Runs several signatures on the same examples, in one call of the session.

    Returns:
      The result of `classify` or `regress`, for every task.
    """
    names: list[str] = []
    feeds: dict[str, None] = {}
    fetches: dict[str, None] = {}
    for task in request.tasks:
        name = task.model_spec.signature_name or SERVING_DEFAULT
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if name in names:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        names.append(name)
        if name not in servable.signatures:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        if task.method_name not in (CLASSIFY_METHOD, REGRESS_METHOD):
            raise RequestError("UNIMPLEMENTED", f"Unsupported signature method_name: {task.method_name}")
        select = _classification if task.method_name == CLASSIFY_METHOD else _regression
        feed, outputs = select(servable.signatures[name])
        feeds[feed] = None
        fetches.update(dict.fromkeys(outputs))
    if not names:
        raise invalid_argument("MultiInferenceRequest holds no tasks.")
    values = _run(servable, list(feeds), list(fetches), request.input, "MultiInference", caller)
    return [
        (_classes if task.method_name == CLASSIFY_METHOD else _regressions)(
            servable.signatures[name], list(fetches), values
        )
        for task, name in zip(request.tasks, names, strict=True)
    ]


def _definition(servable: Servable, signature_name: str) -> Any:
    name = signature_name or SERVING_DEFAULT
    if name not in servable.signatures:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return servable.signatures[name]


def _classification(definition: Any) -> tuple[str, list[str]]:
    """Returns feed and fetches of a Classify signature."""
    if len(definition.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(definition.outputs) not in (1, 2):
        count = len(definition.outputs)
        raise invalid_argument(f"Expected one or two output Tensors, found {count}")
    if _INPUTS not in definition.inputs:
        raise RequestError("FAILED_PRECONDITION", f"No classification inputs found in SignatureDef: {definition}")
    fetches = [definition.outputs[alias].name for alias in (_CLASSES, _SCORES) if alias in definition.outputs]
    if not fetches:
        raise RequestError(
            "FAILED_PRECONDITION",
            f'Expected classification signature outputs to contain at least one of "{_CLASSES}" or "{_SCORES}". '
            f"Signature was: {definition}",
        )
    return definition.inputs[_INPUTS].name, fetches


def _regression(definition: Any) -> tuple[str, list[str]]:
    """Returns feed and fetches of a Regress signature."""
    if len(definition.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if _INPUTS not in definition.inputs:
        raise RequestError("FAILED_PRECONDITION", f"No regression inputs found in SignatureDef: {definition}")
    if _OUTPUTS not in definition.outputs:
        raise RequestError("FAILED_PRECONDITION", f"No regression outputs found in SignatureDef: {definition}")
    return definition.inputs[_INPUTS].name, [definition.outputs[_OUTPUTS].name]


def _run(
    servable: Servable, feeds: list[str], fetches: list[str], request: input_pb2.Input, api: str, caller: Caller
) -> list[np.ndarray]:
    examples = serialized_examples(request)
    monitoring.EXAMPLE_COUNTS.labels(servable.name).observe(len(examples))
    monitoring.EXAMPLE_COUNT_TOTAL.labels(servable.name).inc(len(examples))
    array = np.array(examples, dtype=object)
    values = servable.run(dict.fromkeys(feeds, array), fetches, api, caller)
    for value in values:
        if not value.ndim or len(value) != len(examples):
            raise invalid_argument(
                f"Input batch size did not match output batch size: {len(examples)} vs. {list(value.shape)}"
            )
    return values


def serialized_examples(request: input_pb2.Input) -> list[bytes]:
    """Returns the examples of a request, each after the shared context: protobuf merges concatenated messages.

    Raises:
      RequestError: INVALID_ARGUMENT, if there are none.
    """
    kind = request.WhichOneof("kind")
    context = b""
    if kind == "example_list_with_context":
        context = request.example_list_with_context.context.SerializeToString()
    examples = getattr(request, kind).examples if kind else ()
    if not examples:
        raise invalid_argument("Input is empty.")
    return [context + example.SerializeToString() for example in examples]


def _classes(definition: Any, fetches: list[str], values: list[np.ndarray]) -> Classes:
    columns: dict[str, np.ndarray] = {}
    for alias, dtype, name in ((_CLASSES, object, "DT_STRING"), (_SCORES, np.float32, "DT_FLOAT")):
        if alias not in definition.outputs:
            continue
        value = values[fetches.index(definition.outputs[alias].name)]
        if value.ndim != 2:
            raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {list(value.shape)}")
        if value.dtype != dtype:
            actual = dtypes.of_array(value).name.upper()
            raise invalid_argument(f"Expected {alias} Tensor of {name}. Got: DT_{actual}")
        columns[alias] = value
    shape = next(iter(columns.values())).shape
    if any(value.shape != shape for value in columns.values()):
        sizes = " vs. ".join(str(value.shape[1]) for value in columns.values())
        raise invalid_argument(f"Tensors class and score should match in dim_size(1). Got {sizes}")
    labels: np.ndarray = columns[_CLASSES] if _CLASSES in columns else np.full(shape, b"", dtype=object)
    scores = columns[_SCORES] if _SCORES in columns else np.zeros(shape, np.float32)
    rows: list[list[bytes]] = labels.tolist()
    numbers: Any = scores.tolist()
    return [
        [(label.decode("utf-8", "replace"), score) for label, score in zip(row, row_scores, strict=True)]
        for row, row_scores in zip(rows, numbers, strict=True)
    ]


def _regressions(definition: Any, fetches: list[str], values: list[np.ndarray]) -> list[float]:
    value = values[fetches.index(definition.outputs[_OUTPUTS].name)]
    if value.ndim != 1 and (value.ndim != 2 or value.shape[1] != 1):
        raise invalid_argument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(value.shape)}"
        )
    if value.dtype != np.float32:
        actual = dtypes.of_array(value).name.upper()
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: DT_{actual}")
    numbers: list[float] = value.ravel().tolist()
    return numbers
