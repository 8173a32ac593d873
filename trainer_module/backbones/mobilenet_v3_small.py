"""MobileNetV3, small; see `_mobilenet_v3`."""

from __future__ import annotations

from trainer_module.backbones._mobilenet_v3 import mobilenet_v3

BACKBONE = mobilenet_v3(
    form="small", feature_channels=576, digest="d3e8ec802a04aa4fc771ee12a9a9b836", published_top1=0.681
)
