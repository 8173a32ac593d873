"""EfficientNet-Lite1; see `_efficientnet_lite`."""

from __future__ import annotations

from trainer_module.backbones._efficientnet_lite import efficientnet_lite

BACKBONE = efficientnet_lite(
    variant=1,
    width=1.0,
    depth=1.1,
    image_size=240,
    file_id="77cc7160",
    md5="e187d7cb28a0c0c0812fc04ec932afcd",
    published_top1=0.767,
    measured_top1=0.889,
)
