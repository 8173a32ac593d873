"""MobileNetV3, large; see `_mobilenet_v3`."""

from __future__ import annotations

from trainer_module.backbones._mobilenet_v3 import mobilenet_v3

BACKBONE = mobilenet_v3(
    form="large",
    feature_channels=960,
    digest="07fb09a5933dd0c8eaafa16978110389",
    published_top1=0.756,
    larger_form_of="mobilenet_v3_small",
)
