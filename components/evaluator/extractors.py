"""What TFX's Evaluator calls to prepare examples: TFMA's own steps, and the slices that are derived."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.extractors import slice_key_extractor

from components.evaluator.options import LABEL_GROUP
from trainer_module import features

# In the configuration of the first metric, since an EvalConfig has no place for what it does not know.
LABEL_GROUPS_KEY = "label_groups"


# TFX's Evaluator calls this function.
def custom_extractors(eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any) -> list[Any]:
    """TFMA's default extractors, with label groups as a feature before the slices are told apart.

    Args:
      eval_shared_model: The model, or the new one and the baseline.
      eval_config: Whose first metric's configuration holds `label_groups`, name → classes, if there are any.
      tensor_adapter_config: How examples are read.
    """
    extractors = tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
    )
    groups = json.loads(eval_config.metrics_specs[0].metrics[0].config or "{}").get(LABEL_GROUPS_KEY)
    if not groups:
        return list(extractors)
    names = [extractor.stage_name for extractor in extractors]
    index = names.index(slice_key_extractor.SLICE_KEY_EXTRACTOR_STAGE_NAME)
    derive = tfma.extractors.Extractor(stage_name="DeriveSlices", ptransform=beam.Map(add_label_groups, groups))
    return [*extractors[:index], derive, *extractors[index:]]


def add_label_groups(extracts: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """One example's extracts with the names of the groups that its class, or a class in its mask, belongs to."""
    found = copy.copy(dict(extracts))
    known = dict(found[tfma.FEATURES_KEY])
    classes = {
        name.decode()
        for key in (features.CLASS_TEXT, features.MASK_CLASSES)
        if known.get(key) is not None
        for name in np.asarray(known[key], object).reshape(-1)
    }
    own = [group.encode() for group, members in groups.items() if classes.intersection(members)]
    if own:
        known[features.SLICE_PREFIX + LABEL_GROUP] = np.array(own, object)
    found[tfma.FEATURES_KEY] = known
    return found
