"""EfficientNet-B0; see `_efficientnet`."""

from __future__ import annotations

from trainer_module.backbones._efficientnet import efficientnet

BACKBONE = efficientnet(
    variant=0,
    image_size=224,
    feature_channels=1280,
    digest="50bc09e76180e00e4465e1a485ddc09d",
    published_top1=0.771,
)
