"""Reads the files of ImageExampleGen in nodes that need a few numbers of every example."""

import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tfx import types
from tfx.types import artifact_utils

# A batch of serialized examples contains their images, even if only other features are parsed.
_BATCH_SIZE = 64
# Opening a tf.data pipeline takes as long as reading 500 small images, and a file may have fewer.
_FILES_PER_GROUP = 5


def file_groups(examples: types.Artifact, split: str) -> list[list[str]]:
    """Divides the files of a split into the units of work of a Beam pipeline."""
    paths = sorted(tf.io.gfile.glob(os.path.join(artifact_utils.get_split_uri([examples], split), "*")))
    return [paths[start : start + _FILES_PER_GROUP] for start in range(0, len(paths), _FILES_PER_GROUP)]


def split_batches(examples: types.Artifact, split: str) -> Iterator[np.ndarray]:
    """Yields the serialised examples of a split, string [N], for a node that is one process."""
    for paths in file_groups(examples, split):
        yield from batches(paths).as_numpy_iterator()


def batches(paths: list[str]) -> tf.data.Dataset:
    """Reads serialised examples, string [N], in the order of the files."""
    return tf.data.TFRecordDataset(paths).batch(_BATCH_SIZE)
