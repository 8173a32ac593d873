"""Feature maps of a network: which layer gives one, and the network with that map as an output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from trainer_module import features, layer_graph
from trainer_module.error_text import did_you_mean

_MOST_NAMED = 8


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor of the network.

    Attributes:
      shape: With the batch dimension, None.
      sources: The tensors from which its layer computes it.
      is_learned: Whether it depends on a convolution; before the first, maps are the image itself, rescaled or padded.
      is_bordered: Whether a border was just added or removed, which shifts the positions of a map.
    """

    shape: tuple[int | None, ...]
    sources: tuple[_Tensor, ...] = ()
    is_learned: bool = False
    is_bordered: bool = False

    @property
    def is_map(self) -> bool:
        return len(self.shape) == 4

    @property
    def positions(self) -> int:
        return math.prod(side or 1 for side in self.shape[1:3])


def find_layer(model: keras.Model, layer: str = "") -> str:
    """Finds the layer whose output is the feature map.

    Args:
      model: Functional or sequential, of one input and any structure of outputs.
      layer: The layer's name, or where several models within the model have a layer of that name, the name with
        theirs (`backbone/conv1`). Empty for the last map that leads to an output; where an output is itself a map,
        for the last of the coarsest, the bottleneck of an encoder-decoder. Maps of one position cannot show where the
        evidence is and are taken only where no convolution gives another. The default is never a layer after
        `features.FEATURES_LAYER`, where the head begins: a head of a map for every class would explain itself.

    Returns:
      The layer's name, with the names of the models that contain it. Of a layer used several times the last use counts.

    Raises:
      ValueError: If there is no such layer, its output is not a map, or nothing leads from it to an output.
    """
    if not layer_graph.is_graph(model) or len(model.inputs) != 1:
        raise ValueError("Grad-CAM needs a functional or sequential model of one input.")
    by_name: dict[str, _Tensor] = {}
    outputs = _collect(model, [_Tensor(model.inputs[0].shape)], "", by_name)
    used = _ancestors(outputs)
    maps = {name: tensor for name, tensor in by_name.items() if tensor.is_map and tensor in used}
    if layer:
        return _named(layer, by_name, maps, used)
    if features.FEATURES_LAYER in maps:
        model_maps = _ancestors([maps[features.FEATURES_LAYER]])
        maps = {name: tensor for name, tensor in maps.items() if tensor in model_maps}
    return _default(maps, outputs)


def with_feature_map(model: keras.Model, layer: str) -> keras.Model:
    """The same network with the feature map as a first output; weights are shared.

    Args:
      model: As for `find_layer`.
      layer: From `find_layer`.

    Returns:
      Model from pixels to `[feature map [N, h, w, c], outputs]`, the outputs in their structure.
    """
    name, _, rest = layer.partition("/")
    maps: list[keras.KerasTensor] = []

    def call(called: Any, *args: Any, **kwargs: Any) -> Any:
        if called.name != name:
            return called(*args, **kwargs)
        if not rest:
            outputs = called(*args, **kwargs)
            maps.append(keras.tree.flatten(outputs)[-1])
            return outputs
        feature_map, outputs = with_feature_map(called, rest)(*args, **kwargs)
        maps.append(feature_map)
        return outputs

    graph = layer_graph.trace(model, call)
    outputs = keras.tree.pack_sequence_as(model.output, graph.outputs)
    return keras.Model([call.outputs[0] for call in graph.inputs], [maps[-1], outputs])


def _collect(model: keras.Model, inputs: Sequence[_Tensor], prefix: str, by_name: dict[str, _Tensor]) -> list[_Tensor]:
    """Adds the last output of every layer to `by_name`, in the order of the calls.

    Returns:
      The model's outputs.
    """
    graph = layer_graph.trace(model)
    tensors = {id(call.outputs[0]): tensor for call, tensor in zip(graph.inputs, inputs, strict=True)}
    for layer, arguments, outputs in graph.calls:
        sources = tuple(tensors[id(argument)] for argument in arguments)
        name = prefix + layer.name
        if layer_graph.is_graph(layer):
            results = _collect(layer, sources, f"{name}/", by_name)
        else:
            is_learned = any(source.is_learned for source in sources) or _has_kernel(layer)
            is_bordered = isinstance(layer, keras.layers.ZeroPadding2D | keras.layers.Cropping2D)
            results = [_Tensor(tuple(tensor.shape), sources, is_learned, is_bordered) for tensor in outputs]
        tensors.update(zip(map(id, outputs), results, strict=True))
        by_name.pop(name, None)  # a layer used again moves to the end
        by_name[name] = results[-1]
    return [tensors[id(tensor)] for tensor in graph.outputs]


def _has_kernel(layer: Any) -> bool:
    return any(len(weight.shape) > 2 for weight in getattr(layer, "weights", []))


def _ancestors(outputs: Sequence[_Tensor]) -> set[_Tensor]:
    """All tensors that the outputs depend on, and themselves."""
    seen, waiting = set(outputs), list(outputs)
    while waiting:
        new = [source for source in waiting.pop().sources if source not in seen]
        seen.update(new)
        waiting += new
    return seen


def _default(maps: dict[str, _Tensor], outputs: Sequence[_Tensor]) -> str:
    maps = {name: tensor for name, tensor in maps.items() if tensor not in outputs and not tensor.is_bordered}
    single = {name: tensor for name, tensor in maps.items() if tensor.positions == 1}
    wide = {name: tensor for name, tensor in maps.items() if name not in single and tensor.is_learned}
    candidates = wide or single or maps
    if not candidates:
        raise ValueError("Grad-CAM needs a layer with output [N, h, w, c], and this model has none.")
    if any(output.is_map for output in outputs):
        coarsest = min(tensor.positions for tensor in candidates.values())
        candidates = {name: tensor for name, tensor in candidates.items() if tensor.positions == coarsest}
    return list(candidates)[-1]


def _named(layer: str, by_name: dict[str, _Tensor], maps: dict[str, _Tensor], used: set[_Tensor]) -> str:
    matches = [name for name in by_name if name == layer or name.endswith(f"/{layer}")]
    if not matches:
        some = ", ".join(list(maps)[-_MOST_NAMED:])
        raise ValueError(f"The model has no layer {layer!r}{did_you_mean(layer, maps) or f'. It has: {some}.'}")
    name = layer if layer in matches else matches[-1]
    tensor = by_name[name]
    if not tensor.is_map:
        shape = ", ".join(str(side or "N") for side in tensor.shape)
        raise ValueError(f"Grad-CAM needs a layer with output [N, h, w, c]; {name!r} gives [{shape}].")
    if tensor not in used:
        raise ValueError(f"Nothing leads from the layer {name!r} to an output of the model.")
    return name
