"""The layers of a network, their cost, and the receptive field of its feature map.

Nothing is computed from images: all values follow from shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from trainer_module import features, layer_graph, models
from trainer_module import network as network_builder
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.layer_graph import LayerCall
from trainer_module.options import TrainerOptions

Shape = tuple[int, ...]

_KERNEL_LAYERS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Conv2DTranspose, layers.Dense)
_LOCAL = (
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.SeparableConv2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
)
_GLOBAL = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
# They come after the feature map: the receptive field of a map that grows again is not computed.
_UPSAMPLING = (layers.Conv2DTranspose, layers.UpSampling2D, layers.Resizing)


class ReceptiveField(NamedTuple):
    """The part of the input on which one position of a feature map depends.

    Attributes:
      size: Height and width, pixels; infinite for the whole input.
      stride: Distance between the receptive fields of two neighbouring positions, vertical and horizontal, pixels.
    """

    size: tuple[float, float]
    stride: tuple[int, int]

    @property
    def is_whole_image(self) -> bool:
        """Whether every position depends on every pixel of the input."""
        return math.inf in self.size


class Layer(NamedTuple):
    """One use of a layer.

    Attributes:
      name: The layer's name.
      type: Its class.
      output_shapes: The shape of every output, without the batch dimension.
      kernel: Height and width of the kernel; None without one.
      stride: Vertical and horizontal stride; None without one.
      parameters: Number of parameters; 0 from the second use on.
      trainable_parameters: Number of parameters that training changes.
      macs: Multiply-adds with kernels for one image; biases, batch normalisation, activations and pooling are not
        counted. None if unknown.
      receptive_field: That of its output; None if unknown, and after layers that upsample.
      layers: The layers of a model within the model.
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
    """A network.

    Attributes:
      layers: In an order in which they can be computed.
      parameters: Sum over all layers.
      trainable_parameters: Sum over all layers.
      macs: Sum over all layers; None if one of them is unknown.
      feature_map: The layer `features`; None if there is none.
    """

    layers: tuple[Layer, ...]
    parameters: int
    trainable_parameters: int
    macs: int | None
    feature_map: Layer | None


def network(options: TrainerOptions) -> keras.Model:
    """Builds the network as the trainer does, but with random weights: none are read or downloaded.

    Args:
      options: The configuration of a run.

    Returns:
      Model from pixels to logits.

    Raises:
      ValueError: If it cannot be built. MissingWeightsError, a subclass, if the folder of a SavedModel does not exist.
    """
    channels = options.transform.num_channels
    statistics = PixelStatistics(np.zeros(channels, np.float32), np.ones(channels, np.float32))
    described = options.model
    options = options.model_copy(update={"model": described.with_random_weights()})
    model: keras.Model = network_builder.build(options, statistics)
    if described.begins_frozen():
        model.get_layer(features.BACKBONE_LAYER).trainable = False
    elif described.can_unfreeze():  # trained from the start, except batch normalisation
        models.unfreeze(model, len(model.get_layer(features.BACKBONE_LAYER).layers))
    return model


def describe(model: keras.Model) -> Architecture:
    """Lists the layers of a network with their costs and receptive fields.

    With K the side of the kernel, a convolution takes H_out * W_out * K * K * C_in / groups * C_out multiply-adds, a
    depthwise one H_out * W_out * K * K * C_in * multiplier, a separable one that and H_out * W_out * C_in * multiplier
    * C_out, a transposed one H_in * W_in * K * K * C_in * C_out, a dense layer C_in * C_out for every position.

    The receptive field grows with r_out = r_in + (K_dilated - 1) * j_in and j_out = j_in * stride, K_dilated =
    (K - 1) * dilation + 1; where branches meet, the largest is taken.

    Args:
      model: Functional or sequential, with one input [N, height, width, channels], static except N.

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
        feature_map=by_name.get(features.FEATURES_LAYER),
    )


def _walk(
    model: keras.Model, inputs: Sequence[ReceptiveField | None], counted: set[int]
) -> tuple[tuple[Layer, ...], list[ReceptiveField | None]]:
    """Lists the layers of a model and the receptive fields of its outputs.

    Args:
      model: As in `describe`.
      inputs: Receptive fields of its inputs.
      counted: Identities of the layers whose parameters are already counted; the function adds to it.
    """
    graph = layer_graph.trace(model)
    fields = {id(call.outputs[0]): field for call, field in zip(graph.inputs, inputs, strict=True)}
    rows = [_row(call, field, counted) for call, field in zip(graph.inputs, inputs, strict=True)]
    for call in graph.calls:
        sources = [fields[id(tensor)] for tensor in call.inputs]
        if layer_graph.is_graph(call.layer):
            inner, results = _walk(call.layer, sources, counted)
            rows.append(_summary(call, inner, results[-1]))
        else:
            field = _receptive_field(call, sources)
            results = [field] * len(call.outputs)
            rows.append(_row(call, field, counted))
        fields.update(zip(map(id, call.outputs), results, strict=True))
    return tuple(rows), [fields[id(tensor)] for tensor in graph.outputs]


def _row(call: LayerCall, field: ReceptiveField | None, counted: set[int]) -> Layer:
    layer = call.layer
    weights = [] if id(layer) in counted else getattr(layer, "weights", [])
    counted.add(id(layer))
    return Layer(
        name=layer.name,
        type=type(layer).__name__,
        output_shapes=_shapes(call),
        kernel=getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None),
        stride=getattr(layer, "strides", None),
        parameters=sum(math.prod(weight.shape) for weight in weights),
        trainable_parameters=sum(math.prod(weight.shape) for weight in weights if weight.trainable),
        macs=_macs(call),
        receptive_field=field,
    )


def _summary(call: LayerCall, inner: tuple[Layer, ...], field: ReceptiveField | None) -> Layer:
    return Layer(
        name=call.layer.name,
        type=type(call.layer).__name__,
        output_shapes=_shapes(call),
        kernel=None,
        stride=None,
        parameters=sum(row.parameters for row in inner),
        trainable_parameters=sum(row.trainable_parameters for row in inner),
        macs=_sum_of_known(inner),
        receptive_field=field,
        layers=inner,
    )


def _shapes(call: LayerCall) -> tuple[Shape, ...]:
    return tuple(tuple(tensor.shape[1:]) for tensor in call.outputs)


def _sum_of_known(rows: Sequence[Layer]) -> int | None:
    known = [row.macs for row in rows if row.macs is not None]
    return sum(known) if len(known) == len(rows) else None


def _macs(call: LayerCall) -> int | None:
    layer = call.layer
    if not _is_known(layer):
        return None
    if not isinstance(layer, _KERNEL_LAYERS):
        return 0
    upsamples = isinstance(layer, layers.Conv2DTranspose)
    (tensor,) = call.inputs if upsamples else call.outputs
    # A bias has one axis. Each number of a kernel is used once at every position; with groups and in depthwise
    # convolutions that follows from the kernel's shape.
    kernels: int = sum(math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
    positions: int = math.prod(tensor.shape[1:-1])
    return positions * kernels


def _receptive_field(call: LayerCall, sources: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
    layer = call.layer
    known = [field for field in sources if field is not None]
    if not known or len(known) < len(sources) or not _is_known(layer) or isinstance(layer, _UPSAMPLING):
        return None
    height, width = (max(field.size[axis] for field in known) for axis in (0, 1))
    down, across = (max(field.stride[axis] for field in known) for axis in (0, 1))
    if isinstance(layer, _GLOBAL) or (isinstance(layer, layers.Dense) and len(call.inputs[0].shape) == 2):
        return ReceptiveField((math.inf, math.inf), (down, across))
    if isinstance(layer, _LOCAL):
        kernel = getattr(layer, "kernel_size", None) or layer.pool_size
        dilation = getattr(layer, "dilation_rate", (1, 1))
        height += (kernel[0] - 1) * dilation[0] * down
        width += (kernel[1] - 1) * dilation[1] * across
        down, across = down * layer.strides[0], across * layer.strides[1]
    return ReceptiveField((height, width), (down, across))


def _is_known(layer: Any) -> bool:
    """Whether its multiply-adds and its receptive field are known.

    They are for Keras's own layers that are listed above or have no kernel. A layer from elsewhere may compute
    anything, and a kernel of a layer that is not listed may be used in other ways.
    """
    if not type(layer).__module__.startswith("keras."):
        return False
    kernels = [weight for weight in getattr(layer, "weights", []) if len(weight.shape) > 1]
    return isinstance(layer, _KERNEL_LAYERS) or not kernels
