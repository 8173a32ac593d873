"""MobileNetV2, width 1.0.

Reference: Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 2.
"""

from __future__ import annotations

from trainer_module.backbones import Backbone, Download, Scaling, Weights

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"

# Accuracy by size, and the licence: https://github.com/tensorflow/models/tree/master/research/slim/nets/mobilenet,
# table "Imagenet Checkpoints", rows mobilenet_v2_1.0. Other sizes take the weights of 224, which come first.
_TOP1 = {224: 0.718, 192: 0.707, 160: 0.688, 128: 0.653, 96: 0.603}

BACKBONE = Backbone(
    network="MobileNetV2",
    feature_channels=1280,
    weights=tuple(
        Weights(
            source=Download(f"{_URL}mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5", digest=None),
            image_size=size,
            preprocessing=Scaling(1 / 127.5, offset=-1.0),
            licence="Apache-2.0",
            classifier_layer="predictions",
            published_top1=top1,
        )
        for size, top1 in _TOP1.items()
    ),
)
