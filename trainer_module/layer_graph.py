"""The layers of a Keras model in the order of their calls, read through Keras's public API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras


class LayerCall(NamedTuple):
    """One use of a layer.

    Attributes:
      layer: The layer, or a model within the model.
      inputs: The tensors in its arguments.
      outputs: Its output tensors.
    """

    layer: Any
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]


class LayerGraph(NamedTuple):
    """The calls of a model's layers.

    Attributes:
      inputs: The calls of the input layers, in the order of the model's inputs.
      calls: Those of all other layers, in an order in which they can be computed.
      outputs: The model's output tensors.
    """

    inputs: list[LayerCall]
    calls: list[LayerCall]
    outputs: list[keras.KerasTensor]


def is_graph(layer: Any) -> bool:
    """Whether it is a functional or sequential model, whose layers `trace` can call."""
    return isinstance(layer, keras.Model) and bool(getattr(layer, "inputs", None))


def call_layer(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer."""
    return layer(*args, **kwargs)


def trace(model: keras.Model, call: Callable[..., Any] = call_layer) -> LayerGraph:
    """Calls every layer of a model once more, symbolically.

    Args:
      model: Functional or sequential. A model within it is called as one layer.
      call: Calls a layer: `(layer, *args, **kwargs) -> outputs`.
    """
    calls = []

    def record(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(layer, *args, **kwargs)
        inputs = [tensor for tensor in keras.tree.flatten((args, kwargs)) if isinstance(tensor, keras.KerasTensor)]
        calls.append(LayerCall(layer, inputs, keras.tree.flatten(outputs)))
        return outputs

    # Keras takes a `call_function` for functional models only.
    functional = keras.Model(model.inputs, model.outputs)
    # The layers themselves instead of copies: the weights are shared.
    clone = keras.models.clone_model(
        functional, input_tensors=functional.inputs, clone_function=lambda layer: layer, call_function=record
    )
    layers = {id(layer.output): layer for layer in functional.layers if isinstance(layer, keras.layers.InputLayer)}
    inputs = [LayerCall(layers[id(tensor)], [], [tensor]) for tensor in functional.inputs]
    return LayerGraph(inputs, calls, clone.outputs)
