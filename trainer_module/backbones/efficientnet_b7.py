"""EfficientNet-B7; see `_efficientnet`."""

from __future__ import annotations

from trainer_module.backbones._efficientnet import efficientnet

BACKBONE = efficientnet(
    variant=7,
    image_size=600,
    feature_channels=2560,
    digest="cbcfe4450ddf6f3ad90b1b398090fe4a",
    published_top1=0.843,
)
