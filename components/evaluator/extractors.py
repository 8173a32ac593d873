"""What TFX's Evaluator calls to prepare examples: TFMA's own steps, and the slices that are derived."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.extractors import slice_key_extractor

from components.evaluator.options import LABEL_GROUP
from trainer_module import features

# Of the first metric's configuration, since an EvalConfig has no place for what it does not know.
EXTRACTION_KEY = "extraction"


class Extraction(NamedTuple):
    """What is asked of the extractors.

    Attributes:
      batch_size: Most examples that the model gets at once.
      label_groups: Name → classes.
    """

    batch_size: int
    label_groups: dict[str, tuple[str, ...]]


# TFX's Evaluator calls this function.
def custom_extractors(eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any) -> list[Any]:
    """TFMA's default extractors on smaller batches, with label groups as a feature before slices are told apart.

    Args:
      eval_shared_model: The model, or the new one and the baseline.
      eval_config: Whose first metric's configuration holds an `Extraction`.
      tensor_adapter_config: How examples are read.
    """
    extractors = tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
    )
    asked = Extraction(**json.loads(eval_config.metrics_specs[0].metrics[0].config)[EXTRACTION_KEY])
    divide = beam.FlatMap(divided, asked.batch_size)
    extractors.insert(0, tfma.extractors.Extractor(stage_name="DivideBatches", ptransform=divide))
    if asked.label_groups:
        names = [extractor.stage_name for extractor in extractors]
        index = names.index(slice_key_extractor.SLICE_KEY_EXTRACTOR_STAGE_NAME)
        derive = beam.Map(add_label_groups, asked.label_groups)
        extractors.insert(index, tfma.extractors.Extractor(stage_name="DeriveSlices", ptransform=derive))
    return list(extractors)


def divided(extracts: Mapping[str, Any], batch_size: int) -> Iterator[dict[str, Any]]:
    """The same examples in batches that the model's memory can take: what comes is as large as reading likes it."""
    batch = extracts[tfma.ARROW_RECORD_BATCH_KEY]
    for start in range(0, batch.num_rows, batch_size):
        yield {**extracts, tfma.ARROW_RECORD_BATCH_KEY: batch.slice(start, batch_size)}


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
