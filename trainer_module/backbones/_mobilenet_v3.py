"""The family MobileNetV3 of keras.applications, width 1.0.

Reference: Howard et al. 2019, https://arxiv.org/abs/1905.02244, tables 1 and 2.
"""

from __future__ import annotations

from trainer_module.backbones import Backbone, Download, Scaling, Weights

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v3/"


def mobilenet_v3(
    *, form: str, feature_channels: int, digest: str, published_top1: float, larger_form_of: str | None = None
) -> Backbone:
    """The record of a form.

    Args:
      form: `small` or `large`.
      feature_channels: See `Backbone`, as `larger_form_of`.
      digest: MD5 of the file without classifier.
      published_top1: Table "Classification Checkpoint" of
        https://github.com/tensorflow/models/tree/master/research/slim/nets/mobilenet.
      larger_form_of: See above.
    """
    weights = Weights(
        source=Download(f"{_URL}weights_mobilenet_v3_{form}_224_1.0_float_no_top_v2.h5", digest=digest),
        image_size=224,
        preprocessing=Scaling(1 / 127.5, offset=-1.0),
        licence="Apache-2.0",  # the repository of the table
        classifier_layer="logits",
        published_top1=published_top1,
    )
    return Backbone(
        network=f"MobileNetV3{form.title()}",
        feature_channels=feature_channels,
        weights=(weights,),
        larger_form_of=larger_form_of,
    )
