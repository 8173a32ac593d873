"""ConvNeXt-Tiny.

Reference: Liu et al. 2022, https://arxiv.org/abs/2201.03545, section 2 and table 9.
"""

from __future__ import annotations

from trainer_module.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, Download, Standardization, Weights

BACKBONE = Backbone(
    network="ConvNeXtTiny",
    feature_channels=768,
    skip_strides=(4, 8, 16),  # the first convolution has stride 4
    weights=(
        Weights(
            source=Download(
                "https://storage.googleapis.com/tensorflow/keras-applications/convnext/convnext_tiny_notop.h5",
                digest="d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
            ),
            image_size=224,
            preprocessing=Standardization(IMAGENET_MEAN, IMAGENET_STD),
            licence="MIT",  # https://github.com/facebookresearch/ConvNeXt
            classifier_layer="convnext_tiny_head_dense",
            published_top1=0.813,  # https://keras.io/api/applications/
        ),
    ),
)
