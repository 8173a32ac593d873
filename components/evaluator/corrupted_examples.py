"""Serialized examples → the same with corrupted images, whose slices are the corruption and its severity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.corruptions import SEVERITIES, CorruptibleImage
from components.evaluator.options import CORRUPTION, CORRUPTION_SLICES, SEVERITY
from components.evaluator.slicing import slicing_specs
from trainer_module import features, preprocessing


class CorruptImages(beam.DoFn):
    """Yields every example once per corruption and severity; images are decoded once and encoded without loss."""

    def __init__(self, names: Sequence[str], side: int) -> None:
        """Takes the names of the corruptions, and `side` as `CorruptibleImage` has it."""
        self._names, self._side = tuple(names), side

    def process(self, serialized: bytes) -> Iterator[bytes]:
        """Serialized raw example → serialized raw examples."""
        example = tf.train.Example.FromString(serialized)
        feature = example.features.feature
        (encoded,) = feature[features.IMAGE_ENCODED].bytes_list.value
        pixels = preprocessing.decode(tf.constant(encoded), 3).numpy()  # ImageExampleGen has applied a window
        image = CorruptibleImage(pixels, self._side)
        for name in self._names:
            for severity in SEVERITIES:
                png = tf.io.encode_png(image.corrupt(name, severity), compression=1).numpy()
                for key, value in (
                    (features.IMAGE_ENCODED, png),
                    (features.IMAGE_FORMAT, b"PNG"),
                    (features.SLICE_PREFIX + CORRUPTION, name.encode()),
                    (features.SLICE_PREFIX + SEVERITY, str(severity).encode()),
                ):
                    feature[key].bytes_list.value[:] = [value]
                yield example.SerializeToString()


def slicing(eval_config: str) -> str:
    """Returns TFMA's configuration, as JSON, with the slices of corrupted examples instead of those of the dataset."""
    config = json_format.Parse(eval_config, config_pb2.EvalConfig())
    del config.slicing_specs[:]
    config.slicing_specs.extend(slicing_specs(CORRUPTION_SLICES))
    changed: str = json_format.MessageToJson(config)
    return changed


def with_slices(schema: schema_pb2.Schema) -> schema_pb2.Schema:
    """Returns a copy of a schema that contains the slices of corrupted examples."""
    extended = schema_pb2.Schema()
    extended.CopyFrom(schema)
    for name in (CORRUPTION, SEVERITY):
        extended.feature.add(name=features.SLICE_PREFIX + name, type=schema_pb2.BYTES)
    return extended
