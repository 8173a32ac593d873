"""EfficientNet-B5; see `_efficientnet`."""

from __future__ import annotations

from trainer_module.backbones._efficientnet import efficientnet

BACKBONE = efficientnet(
    variant=5,
    image_size=456,
    feature_channels=2048,
    digest="38879255a25d3c92d5e44e04ae6cec6f",
    published_top1=0.836,
)
