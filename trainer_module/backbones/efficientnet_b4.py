"""EfficientNet-B4; see `_efficientnet`."""

from __future__ import annotations

from trainer_module.backbones._efficientnet import efficientnet

BACKBONE = efficientnet(
    variant=4,
    image_size=380,
    feature_channels=1792,
    digest="ebc24e6d6c33eaebbd558eafbeedf1ba",
    published_top1=0.829,
)
