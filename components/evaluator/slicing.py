"""TFMA's definition of slices."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.options import Slice
from trainer_module import features


def slicing_specs(slices: Sequence[Slice]) -> list[config_pb2.SlicingSpec]:
    """Returns the slice of all examples, then one specification per name or pair of names.

    Args:
      slices: Names of slice features without their prefix, and pairs of them.
    """
    names = [(entry,) if isinstance(entry, str) else entry for entry in slices]
    keys = [[features.SLICE_PREFIX + name for name in entry] for entry in names]
    return [config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=entry) for entry in keys)]
