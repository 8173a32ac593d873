"""EfficientNet-Lite0; see `_efficientnet_lite`."""

from __future__ import annotations

from trainer_module.backbones._efficientnet_lite import efficientnet_lite

BACKBONE = efficientnet_lite(
    variant=0,
    width=1.0,
    depth=1.0,
    image_size=224,
    file_id="57934424",
    md5="7406efdd8a1cb90d2464ddc714e33aa3",
    published_top1=0.751,
    measured_top1=0.886,
)
