"""EfficientNet-B6; see `_efficientnet`."""

from __future__ import annotations

from trainer_module.backbones._efficientnet import efficientnet

BACKBONE = efficientnet(
    variant=6,
    image_size=528,
    feature_channels=2304,
    digest="9ecce42647a20130c1f39a5d4cb75743",
    published_top1=0.840,
)
