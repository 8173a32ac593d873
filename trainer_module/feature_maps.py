"""A network cut in two at one of its feature maps: what leads to it, and what follows from it.

What is asked of a map, such as a gradient, then costs nothing below it: the part before runs once, forward only.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer_module.error_text import did_you_mean

_MOST_NAMED = 8


class _Step(NamedTuple):
    """One use of an operation, models within the model unfolded.

    Attributes:
      operation: The layer.
      arguments: What Keras recorded of its call.
      reads: Of every tensor in its arguments, by identity, the number under which its value is kept.
      writes: The numbers of its outputs.
    """

    operation: Any
    arguments: Any
    reads: dict[int, int]
    writes: list[int]


class CutNetwork:
    """A functional or sequential model as the steps before and behind one feature map.

    Attributes:
      layer: The name of the layer that gives the map, with the models that hold it: `backbone/block_13_expand`.
      map_shape: [h, w, c] of the map.
    """

    def __init__(self, model: keras.Model, layer: str = "") -> None:
        """Finds the map.

        Args:
          model: Of one input and one output, float32 [N, num_classes] or [N, h, w, num_classes].
          layer: The layer whose output is the map: its name, or where several models hold that name, the name with
            theirs (`backbone/conv1`). Empty for the last map that leads to the output; where the output is itself a
            map, for the last of the coarsest, the bottleneck of an encoder-decoder. Maps of one position tell no places
            apart and are taken only where no convolution gives another.

        Raises:
          ValueError: If there is no such layer, its output is no map, or nothing leads from it to the output.
        """
        graph = _graph(model)
        if graph is None or len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ValueError("Grad-CAM needs a functional or sequential model of one input and one output.")
        self._input = 0
        numbers = itertools.count(1)
        self._shapes: dict[int, tuple[int | None, ...]] = {}
        self._names: dict[str, int] = {}
        self._bordered: set[int] = set()  # maps with a border, or without theirs: their positions are shifted
        steps, (self._output,) = self._unfold(graph, [self._input], "", numbers)
        self._learnt = self._behind_kernels(steps)
        # What does not lead to the output is not computed.
        needed, useful = {self._output}, []
        for step in reversed(steps):
            if needed.intersection(step.writes):
                needed.update(step.reads.values())
                useful.append(step)
        steps = useful[::-1]
        self.layer, self._map = self._find(layer, needed)
        self.map_shape = self._shapes[self._map][1:]
        depending, self._behind = {self._map}, []
        for step in steps:
            if depending.intersection(step.reads.values()) and self._map not in step.writes:
                depending.update(step.writes)
                self._behind.append(step)
        behind = set(map(id, self._behind))
        self._before = [step for step in steps if id(step) not in behind]
        self._num_outputs = len(self._shapes[self._output])

    @property
    def gives_a_map(self) -> bool:
        """Whether the output has a class for every pixel."""
        return self._num_outputs == 4

    def before(self, images: tf.Tensor) -> tuple[tf.Tensor, dict[int, tf.Tensor]]:
        """Runs what does not depend on the map, and so what leads to it.

        Args:
          images: As the model takes them.

        Returns:
          The map, [N, h, w, c], and all that `behind` needs beside it: of an encoder-decoder the other maps.
        """
        values = _run(self._before, {self._input: images})
        return values[self._map], values

    def behind(self, feature_map: tf.Tensor, values: dict[int, tf.Tensor]) -> tf.Tensor:
        """Runs what depends on the map.

        Args:
          feature_map: [N, h, w, c].
          values: From `before`.

        Returns:
          The model's output.
        """
        return _run(self._behind, values | {self._map: feature_map})[self._output]

    def _unfold(
        self, graph: Any, inputs: Sequence[int], prefix: str, numbers: Iterator[int]
    ) -> tuple[list[_Step], list[int]]:
        """The steps of a model in the order in which they are computed, and the numbers of its outputs."""
        known = dict(zip(map(id, graph.inputs), inputs, strict=True))
        steps = []
        # Keras has no public way to the uses of layers.
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                reads = {id(tensor): known[id(tensor)] for tensor in node.input_tensors}
                name = prefix + node.operation.name
                inner = _graph(node.operation)
                if inner is not None:
                    given = [known[id(tensor)] for tensor in node.input_tensors]
                    unfolded, writes = self._unfold(inner, given, f"{name}/", numbers)
                    steps += unfolded
                else:
                    writes = [next(numbers) for _ in node.outputs]
                    steps.append(_Step(node.operation, node.arguments, reads, writes))
                    if isinstance(node.operation, keras.layers.ZeroPadding2D | keras.layers.Cropping2D):
                        self._bordered.update(writes)
                for tensor, number in zip(node.outputs, writes, strict=True):
                    known[id(tensor)] = number
                    self._shapes.setdefault(number, tuple(tensor.shape))
                # Of several outputs the last, as of several uses: a name stands for one map.
                self._names.pop(name, None)
                self._names[name] = writes[-1]
        return steps, [known[id(tensor)] for tensor in graph.outputs]

    def _behind_kernels(self, steps: Sequence[_Step]) -> set[int]:
        """What depends on a convolution: before the first, maps are the picture itself, rescaled or padded."""
        found: set[int] = set()
        for step in steps:
            weights = getattr(step.operation, "weights", [])
            if found.intersection(step.reads.values()) or any(len(weight.shape) > 2 for weight in weights):
                found.update(step.writes)
        return found

    def _find(self, layer: str, needed: set[int]) -> tuple[str, int]:
        maps = {name: number for name, number in self._names.items() if self._is_map(number) and number in needed}
        if not layer:
            maps = {name: number for name, number in maps.items() if number not in (self._output, *self._bordered)}
            single = {name: number for name, number in maps.items() if self._positions(number) == 1}
            wide = {name: number for name, number in maps.items() if name not in single and number in self._learnt}
            found = wide or single or maps
            if not found:
                raise ValueError("Grad-CAM needs a layer with output [N, h, w, c], and this model has none.")
            if len(self._shapes[self._output]) == 4:
                coarsest = min(map(self._positions, found.values()))
                found = {name: number for name, number in found.items() if self._positions(number) == coarsest}
            return list(found.items())[-1]
        named = [name for name in self._names if name == layer or name.endswith(f"/{layer}")]
        if not named:
            some = ", ".join(list(maps)[-_MOST_NAMED:])
            raise ValueError(f"The model has no layer {layer!r}{did_you_mean(layer, maps) or f'. It has: {some}.'}")
        chosen = layer if layer in named else named[-1]
        number = self._names[chosen]
        if len(self._shapes[number]) != 4:
            shape = ", ".join(str(side or "N") for side in self._shapes[number])
            raise ValueError(f"Grad-CAM needs a layer with output [N, h, w, c]; {chosen!r} gives [{shape}].")
        if number not in needed:
            raise ValueError(f"Nothing leads from the layer {chosen!r} to the model's output.")
        return chosen, number

    def _is_map(self, number: int) -> bool:
        return len(self._shapes[number]) == 4

    def _positions(self, number: int) -> int:
        _, height, width, _ = self._shapes[number]
        return (height or 1) * (width or 1)


def _graph(operation: Any) -> Any:
    """What holds the layers of a model; None of anything else."""
    graph = getattr(operation, "_functional", operation)  # of a Sequential
    return graph if hasattr(graph, "_nodes_by_depth") else None


def _run(steps: Sequence[_Step], values: dict[int, tf.Tensor]) -> dict[int, tf.Tensor]:
    values = dict(values)
    for step in steps:
        positional, named = step.arguments.fill_in({key: values[number] for key, number in step.reads.items()})
        if "training" in inspect.signature(step.operation.call).parameters:
            named["training"] = False
        outputs = tf.nest.flatten(step.operation(*positional, **named))
        values.update(zip(step.writes, outputs, strict=True))
    return values
