"""What a network is made of: its layers, what they cost, and how much of the picture its feature map sees.

Nothing is run: all figures follow from shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from trainer_module import features, models, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions

Shape = tuple[int, ...]

_WEIGHING = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Conv2DTranspose, layers.Dense)
_LOCAL = (
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
)
_GLOBAL = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
# Beyond these a map no longer becomes coarser: they stand after the feature map.
_RESIZING = (layers.Conv2DTranspose, layers.UpSampling2D, layers.Resizing)


class ReceptiveField(NamedTuple):
    """What one position of a map depends on.

    Attributes:
      size: Height and width of that part of the input, pixels; infinite for all of it.
      stride: How far apart, in pixels of the input, two neighbouring positions look: down and across.
    """

    size: tuple[float, float]
    stride: tuple[int, int]

    @property
    def is_whole_picture(self) -> bool:
        """Whether there is a way from every pixel of the input to every position."""
        return math.inf in self.size


class Layer(NamedTuple):
    """One use of a layer.

    Attributes:
      name: As Keras knows it.
      type: Its class.
      output_shapes: Of every output, without the batch.
      kernel: Height and width, where it has one.
      stride: Down and across, where it has one.
      parameters: All its numbers, counted at its first use.
      trainable_parameters: Those that training changes.
      macs: Multiplications, each with its addition, that kernels take for one picture; biases, batch normalisation,
        activations and pooling are not counted. None where it is not known.
      receptive_field: Of its output; None where it is not known, and after layers that enlarge a map.
      layers: Of a network within the network.
    """

    name: str
    type: str
    output_shapes: tuple[Shape, ...]
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    parameters: int
    trainable_parameters: int
    macs: int | None
    receptive_field: ReceptiveField | None
    layers: tuple[Layer, ...] = ()


class Architecture(NamedTuple):
    """A whole network.

    Attributes:
      layers: In the order in which they are computed.
      parameters: The sum of all layers.
      trainable_parameters: The same.
      macs: The same; None where that of a layer is not known.
      feature_map: The layer before the head: `features`, or `bottleneck` where masks are told; None where there is
        neither.
    """

    layers: tuple[Layer, ...]
    parameters: int
    trainable_parameters: int
    macs: int | None
    feature_map: Layer | None


def network(options: TrainerOptions) -> keras.Model:
    """The network as the trainer builds it, but with random weights: none are looked for or downloaded.

    Args:
      options: The whole configuration of a run.

    Returns:
      Model from pixels to logits.

    Raises:
      ValueError: If it cannot be built; of a SavedModel that is not there, its kind MissingWeightsError.
    """
    channels = options.transform.channels
    statistics = PixelStatistics(np.zeros(channels, np.float32), np.ones(channels, np.float32))
    described = options.model
    options = options.model_copy(update={"model": described.with_random_weights()})
    model: keras.Model = tasks.of(options).build_model(options, statistics)
    if described.begins_frozen():
        model.get_layer(features.BACKBONE_LAYER).trainable = False
    elif described.can_unfreeze():  # trained from the start, batch normalisation excepted
        models.get(described.name).unfreeze(model, len(model.get_layer(features.BACKBONE_LAYER).layers))
    return model


def describe(model: keras.Model) -> Architecture:
    """Lists the layers of a network.

    With K the kernel's side, a convolution takes H_out * W_out * K * K * C_in / groups * C_out multiply-adds, a
    depthwise one H_out * W_out * K * K * C_in * multiplier, a separable one that and H_out * W_out * C_in * multiplier
    * C_out, a transposed one H_in * W_in * K * K * C_in * C_out, a dense layer C_in * C_out for every position.

    The receptive field grows with r_out = r_in + (K_dilated - 1) * j_in and j_out = j_in * stride, K_dilated being
    (K - 1) * dilation + 1; where branches meet, the largest counts.

    Args:
      model: Functional or Sequential, of one input [N, height, width, channels], all static but N.

    Reference: Araujo et al. 2019, https://distill.pub/2019/computing-receptive-fields/, sections "Computing receptive
    field size" and "Arbitrary computation graphs"; Howard et al. 2017, https://arxiv.org/abs/1704.04861, section 3.1
    (multiply-adds).
    """
    rows, _ = _walk(model, [ReceptiveField((1, 1), (1, 1))], counted=set())
    by_name = {row.name: row for row in rows}
    return Architecture(
        layers=rows,
        parameters=sum(row.parameters for row in rows),
        trainable_parameters=sum(row.trainable_parameters for row in rows),
        macs=_sum_of_known(rows),
        feature_map=by_name.get(features.FEATURES_LAYER) or by_name.get(features.BOTTLENECK_LAYER),
    )


def _walk(
    model: keras.Model, inputs: Sequence[ReceptiveField | None], counted: set[int]
) -> tuple[tuple[Layer, ...], list[ReceptiveField | None]]:
    """The layers of a model, and the receptive fields of its outputs.

    Args:
      model: As in `describe`.
      inputs: Receptive fields of its inputs.
      counted: Identities of the layers whose parameters are in the sum already; is added to.
    """
    graph = _graph(model)
    fields = dict(zip(map(id, graph.inputs), inputs, strict=True))
    rows = []
    # Keras has no public way to the uses of layers, of which one layer may have several.
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            operation, outputs = node.operation, node.output_tensors
            given = [fields[id(tensor)] for tensor in node.input_tensors]
            if _graph(operation) is not None:
                inner, found = _walk(operation, given, counted)
                row = _summary(operation, outputs, inner, found[-1])
            else:
                field = fields[id(outputs[0])] if node.is_input else _receptive_field(node, given)
                row, found = _row(node, field, counted), [field] * len(outputs)
            fields.update(zip(map(id, outputs), found, strict=True))
            rows.append(row)
    return tuple(rows), [fields[id(tensor)] for tensor in graph.outputs]


def _graph(operation: Any) -> Any:
    """What holds the layers of a model; None of anything else."""
    graph = getattr(operation, "_functional", operation)  # of a Sequential
    return graph if hasattr(graph, "_nodes_by_depth") else None


def _row(node: Any, field: ReceptiveField | None, counted: set[int]) -> Layer:
    operation = node.operation
    weights = [] if id(operation) in counted else getattr(operation, "weights", [])
    counted.add(id(operation))
    return Layer(
        name=operation.name,
        type=type(operation).__name__,
        output_shapes=_shapes(node.output_tensors),
        kernel=getattr(operation, "kernel_size", None) or getattr(operation, "pool_size", None),
        stride=getattr(operation, "strides", None),
        parameters=sum(math.prod(weight.shape) for weight in weights),
        trainable_parameters=sum(math.prod(weight.shape) for weight in weights if weight.trainable),
        macs=_macs(node),
        receptive_field=field,
    )


def _summary(model: Any, outputs: Sequence[Any], inner: tuple[Layer, ...], field: ReceptiveField | None) -> Layer:
    return Layer(
        name=model.name,
        type=type(model).__name__,
        output_shapes=_shapes(outputs),
        kernel=None,
        stride=None,
        parameters=sum(row.parameters for row in inner),
        trainable_parameters=sum(row.trainable_parameters for row in inner),
        macs=_sum_of_known(inner),
        receptive_field=field,
        layers=inner,
    )


def _shapes(tensors: Sequence[Any]) -> tuple[Shape, ...]:
    return tuple(tuple(tensor.shape[1:]) for tensor in tensors)


def _sum_of_known(rows: Sequence[Layer]) -> int | None:
    known = [row.macs for row in rows if row.macs is not None]
    return sum(known) if len(known) == len(rows) else None


def _macs(node: Any) -> int | None:
    operation = node.operation
    if not _is_known(operation):
        return None
    if not isinstance(operation, _WEIGHING):
        return 0
    enlarges = isinstance(operation, layers.Conv2DTranspose)
    (tensor,) = node.input_tensors if enlarges else node.output_tensors
    # A bias has one axis; each number of a kernel is used once at every position, which with groups and in depthwise
    # kernels is what their shape says.
    kernels: int = sum(math.prod(weight.shape) for weight in operation.weights if len(weight.shape) > 1)
    positions: int = math.prod(tensor.shape[1:-1])
    return positions * kernels


def _receptive_field(node: Any, inputs: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
    operation = node.operation
    known = [field for field in inputs if field is not None]
    if not known or len(known) < len(inputs) or not _is_known(operation) or isinstance(operation, _RESIZING):
        return None
    height, width = (max(field.size[axis] for field in known) for axis in (0, 1))
    down, across = (max(field.stride[axis] for field in known) for axis in (0, 1))
    if isinstance(operation, _GLOBAL) or (
        isinstance(operation, layers.Dense) and len(node.input_tensors[0].shape) == 2
    ):
        return ReceptiveField((math.inf, math.inf), (down, across))
    if isinstance(operation, _LOCAL):
        kernel = getattr(operation, "kernel_size", None) or operation.pool_size
        dilation = getattr(operation, "dilation_rate", (1, 1))
        height += (kernel[0] - 1) * dilation[0] * down
        width += (kernel[1] - 1) * dilation[1] * across
        down, across = down * operation.strides[0], across * operation.strides[1]
    return ReceptiveField((height, width), (down, across))


def _is_known(operation: Any) -> bool:
    """Whether it is one of those above, or works position by position and weighs no sums.

    What is not Keras's own may do anything; a kernel in a layer that is not listed is multiplied in ways of its own.
    """
    if not type(operation).__module__.startswith("keras."):
        return False
    kernels = [weight for weight in getattr(operation, "weights", []) if len(weight.shape) > 1]
    return isinstance(operation, _WEIGHING) or not kernels
