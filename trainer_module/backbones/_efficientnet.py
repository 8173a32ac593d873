"""The family EfficientNet of keras.applications.

Reference: Tan & Le 2019, https://arxiv.org/abs/1905.11946, table 1 and section 3.3.
"""

from __future__ import annotations

from trainer_module.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone, Download, Standardization, Weights


def efficientnet(
    *, variant: int, image_size: int, feature_channels: int, digest: str, published_top1: float
) -> Backbone:
    """The record of a variant.

    Args:
      variant: The number in its name.
      image_size: See `Weights`, as `published_top1` (https://keras.io/api/applications/).
      feature_channels: See `Backbone`.
      digest: MD5 of the file without classifier.
      published_top1: See above.
    """
    weights = Weights(
        source=Download(
            f"https://storage.googleapis.com/keras-applications/efficientnetb{variant}_notop.h5", digest=digest
        ),
        image_size=image_size,
        preprocessing=Standardization(IMAGENET_MEAN, IMAGENET_STD),
        licence="Apache-2.0",  # https://github.com/tensorflow/tpu
        classifier_layer="predictions",
        published_top1=published_top1,
    )
    return Backbone(
        network=f"EfficientNetB{variant}",
        has_preprocessing=True,
        feature_channels=feature_channels,
        weights=(weights,),
        larger_form_of="efficientnet_b0" if variant else None,
    )
