"""The folder is the registry: one file per model, which exports its `MODEL`, a `ModelSpec`."""

from __future__ import annotations

from trainer_module.models._pretrained import unfreeze as unfreeze
from trainer_module.models._spec import FeatureMaps as FeatureMaps
from trainer_module.models._spec import ModelSpec as ModelSpec
from trainer_module.registry import Registry

DEFAULT = "scratch_cnn"

_REGISTRY = Registry(__name__, "model", ModelSpec)
names, get = _REGISTRY.names, _REGISTRY.get
