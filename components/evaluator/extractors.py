"""How TFMA prepares examples: its own steps, without images behind the model, with label groups as slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.extractors import slice_key_extractor, unbatch_extractor

from components.evaluator.options import LABEL_GROUP
from trainer_module import features


def image_extractors(
    eval_shared_model: Any,
    eval_config: Any,
    tensor_adapter_config: Any,
    label_groups: Mapping[str, Sequence[str]],
    class_features: Sequence[str],
) -> list[Any]:
    """Returns TFMA's default extractors, with label groups as a feature before slices are distinguished.

    Args:
      eval_shared_model: The model, or the new one and the baseline.
      eval_config: TFMA's configuration.
      tensor_adapter_config: How examples are read.
      label_groups: Name → classes.
      class_features: Features that contain class names.
    """
    extractors = list(
        tfma.default_extractors(
            eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
        )
    )

    def insert_before(stage: str, name: str, ptransform: beam.PTransform) -> None:
        index = [extractor.stage_name for extractor in extractors].index(stage)
        extractors.insert(index, tfma.extractors.Extractor(stage_name=name, ptransform=ptransform))

    insert_before(unbatch_extractor.UNBATCH_EXTRACTOR_STAGE_NAME, "DropImages", beam.Map(without_images))
    if label_groups:
        derive = beam.Map(add_label_groups, label_groups, class_features)
        insert_before(slice_key_extractor.SLICE_KEY_EXTRACTOR_STAGE_NAME, "DeriveSlices", derive)
    return extractors


def without_images(extracts: Mapping[str, Any]) -> dict[str, Any]:
    """Removes the serialized examples from the extracts of a batch: nothing reads them after the model has run."""
    return {key: value for key, value in extracts.items() if key != tfma.INPUT_KEY}


def add_label_groups(
    extracts: Mapping[str, Any], groups: Mapping[str, Sequence[str]], class_features: Sequence[str]
) -> dict[str, Any]:
    """Adds the names of the groups that one of an example's classes belongs to."""
    example_features = dict(extracts[tfma.FEATURES_KEY])
    classes = {
        name.decode()
        for key in class_features
        if example_features.get(key) is not None
        for name in np.asarray(example_features[key], object).reshape(-1)
    }
    own_groups = [group.encode() for group, members in groups.items() if classes.intersection(members)]
    if own_groups:
        example_features[features.SLICE_PREFIX + LABEL_GROUP] = np.array(own_groups, object)
    return {**extracts, tfma.FEATURES_KEY: example_features}
