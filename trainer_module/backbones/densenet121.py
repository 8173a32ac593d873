"""DenseNet-121.

Reference: Huang et al. 2017, https://arxiv.org/abs/1608.06993, table 1.
"""

from __future__ import annotations

from trainer_module.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, Download, Standardization, Weights

BACKBONE = Backbone(
    network="DenseNet121",
    feature_channels=1024,
    weights=(
        Weights(
            source=Download(
                "https://storage.googleapis.com/tensorflow/keras-applications/densenet/"
                "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
                digest="30ee3e1110167f948a6b9946edeeb738",
            ),
            image_size=224,
            preprocessing=Standardization(IMAGENET_MEAN, IMAGENET_STD),
            licence="BSD-3-Clause",  # https://github.com/liuzhuang13/DenseNet
            classifier_layer="predictions",
            published_top1=0.750,  # https://keras.io/api/applications/
        ),
    ),
)
