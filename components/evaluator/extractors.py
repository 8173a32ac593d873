"""How TFMA prepares examples: its own steps, without the pictures behind the model, and the slices that are derived."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.extractors import slice_key_extractor, unbatch_extractor

from components.evaluator.options import LABEL_GROUP
from trainer_module import features

# What label groups are derived from.
CLASS_FEATURES = (features.CLASS_TEXT, features.MASK_CLASSES)


def image_extractors(
    eval_shared_model: Any,
    eval_config: Any,
    tensor_adapter_config: Any,
    label_groups: Mapping[str, Sequence[str]],
) -> list[Any]:
    """TFMA's default extractors, with label groups as a feature before slices are told apart.

    Args:
      eval_shared_model: The model, or the new one and the baseline.
      eval_config: What is measured.
      tensor_adapter_config: How examples are read.
      label_groups: Name → classes.
    """
    extractors = list(
        tfma.default_extractors(
            eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
        )
    )

    def insert_before(stage: str, name: str, ptransform: beam.PTransform) -> None:
        index = [extractor.stage_name for extractor in extractors].index(stage)
        extractors.insert(index, tfma.extractors.Extractor(stage_name=name, ptransform=ptransform))

    insert_before(unbatch_extractor.UNBATCH_EXTRACTOR_STAGE_NAME, "ForgetPictures", beam.Map(without_pictures))
    if label_groups:
        derive = beam.Map(add_label_groups, label_groups)
        insert_before(slice_key_extractor.SLICE_KEY_EXTRACTOR_STAGE_NAME, "DeriveSlices", derive)
    return extractors


def without_pictures(extracts: Mapping[str, Any]) -> dict[str, Any]:
    """A batch's extracts without the serialised examples: behind the model nobody reads them."""
    return {key: value for key, value in extracts.items() if key != tfma.INPUT_KEY}


def add_label_groups(extracts: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """One example's extracts with the names of the groups that its class, or a class in its mask, belongs to."""
    found = copy.copy(dict(extracts))
    known = dict(found[tfma.FEATURES_KEY])
    classes = {
        name.decode()
        for key in CLASS_FEATURES
        if known.get(key) is not None
        for name in np.asarray(known[key], object).reshape(-1)
    }
    own = [group.encode() for group, members in groups.items() if classes.intersection(members)]
    if own:
        known[features.SLICE_PREFIX + LABEL_GROUP] = np.array(own, object)
    found[tfma.FEATURES_KEY] = known
    return found
