"""EfficientNet-Lite2; see `_efficientnet_lite`."""

from __future__ import annotations

from trainer_module.backbones._efficientnet_lite import efficientnet_lite

BACKBONE = efficientnet_lite(
    variant=2,
    width=1.1,
    depth=1.2,
    image_size=260,
    file_id="9656183e",
    md5="1ff5589222bbf5d55c3ed7cfcd6de936",
    published_top1=0.776,
    measured_top1=0.890,
)
