"""Pre-trained networks without their classifier: one file per backbone, which exports one `Backbone` record.

    BACKBONE = Backbone(
        network="MobileNetV3Small",  # a constructor in keras.applications, or a function
        feature_channels=576,
        weights=(
            Weights(
                source=Download("https://storage.googleapis.com/…_no_top_v2.h5", digest="…"),
                image_size=224,
                preprocessing=Scaling(1 / 127.5, offset=-1.0),
                classifier_layer="logits",
                licence="Apache-2.0",
                published_top1=0.681,
            ),
        ),
    )

No list names the backbones: configuration, models and conformance tests take them from `names()`. Forms of one network
that differ in size share a function in a file `_<family>.py`. Importing a backbone does not import Keras.
"""

from __future__ import annotations

from trainer_module.backbones._backbone import Backbone as Backbone
from trainer_module.backbones._weights import IMAGENET as IMAGENET
from trainer_module.backbones._weights import IMAGENET_MEAN as IMAGENET_MEAN
from trainer_module.backbones._weights import IMAGENET_STD as IMAGENET_STD
from trainer_module.backbones._weights import RANDOM as RANDOM
from trainer_module.backbones._weights import Directory as Directory
from trainer_module.backbones._weights import Download as Download
from trainer_module.backbones._weights import MissingWeightsError as MissingWeightsError
from trainer_module.backbones._weights import PythonPackage as PythonPackage
from trainer_module.backbones._weights import Scaling as Scaling
from trainer_module.backbones._weights import Standardization as Standardization
from trainer_module.backbones._weights import Weights as Weights
from trainer_module.registry import Registry

_REGISTRY = Registry(__name__, "backbone", Backbone)
names, get = _REGISTRY.names, _REGISTRY.get


def names_of_families() -> list[str]:
    """Names of the backbones that are not a larger form of another one."""
    return [name for name in names() if get(name).larger_form_of is None]
