"""EfficientNet-B0.

Reference: Tan & Le 2019, https://arxiv.org/abs/1905.11946, table 1.
"""

from __future__ import annotations

from trainer_module.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, Download, Standardization, Weights

BACKBONE = Backbone(
    network="EfficientNetB0",
    has_preprocessing=True,
    feature_channels=1280,
    weights=(
        Weights(
            source=Download(
                "https://storage.googleapis.com/keras-applications/efficientnetb0_notop.h5",
                md5="50bc09e76180e00e4465e1a485ddc09d",
            ),
            image_size=224,
            preprocessing=Standardization(IMAGENET_MEAN, IMAGENET_STD),
            licence="Apache-2.0",  # https://github.com/tensorflow/tpu
            classifier_layer="predictions",
            published_top1=0.771,  # https://keras.io/api/applications/
        ),
    ),
)
