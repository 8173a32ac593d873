"""ResNet-50, first version.

Reference: He et al. 2016, https://arxiv.org/abs/1512.03385, table 1.
"""

from __future__ import annotations

from trainer_module.backbones import Backbone, Download, Standardization, Weights

BACKBONE = Backbone(
    network="ResNet50",
    feature_channels=2048,
    weights=(
        Weights(
            source=Download(
                "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
                "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
                digest="4d473c1dd8becc155b73f8504c6f6626",
            ),
            image_size=224,
            # The weights come from Caffe (`keras.applications.imagenet_utils.preprocess_input`, mode "caffe").
            preprocessing=Standardization(mean=(103.939, 116.779, 123.68), channels="bgr", white=255.0),
            licence="MIT",  # https://github.com/KaimingHe/deep-residual-networks
            classifier_layer="predictions",
            published_top1=0.749,  # https://keras.io/api/applications/
        ),
    ),
)
