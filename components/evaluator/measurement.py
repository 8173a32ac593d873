"""The Beam pipeline of an evaluation: raw examples → TFMA's figures of every slice, on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import apache_beam as beam
import tensorflow_model_analysis as tfma
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_model_analysis import constants as tfma_constants
from tensorflow_model_analysis.proto import config_pb2
from tfx_bsl.tfxio import tensor_adapter, tf_example_record

from components.evaluator import extractors


def measure(
    pipeline: beam.Pipeline,
    *,
    examples_pattern: str,
    schema: schema_pb2.Schema,
    eval_config: config_pb2.EvalConfig,
    model_path: str,
    baseline_path: str | None,
    output_path: str,
    batch_size: int,
    label_groups: Mapping[str, Sequence[str]],
) -> None:
    """Adds the evaluation of a model, or of two side by side, to a Beam pipeline.

    TFX's Evaluator decodes every feature of every example, and the pictures among them are most of what it then carries
    about. Here only what slices are told by is decoded; the model is given the example as it was written.

    Args:
      pipeline: Receives the steps.
      examples_pattern: TFRecord files of raw examples.
      schema: Of the examples.
      eval_config: What is measured, of one model; without thresholds.
      model_path: SavedModel of the candidate.
      baseline_path: The same of the model before, if there is one.
      output_path: Receives TFMA's files.
      batch_size: How many examples a model gets at once.
      label_groups: Name → classes.
    """
    said = tfma.utils.update_eval_config_with_defaults(
        eval_config, has_baseline=baseline_path is not None, rubber_stamp=True
    )
    tfma.utils.verify_eval_config(said)
    models = [
        tfma.default_eval_shared_model(
            eval_saved_model_path=baseline_path if spec.is_baseline else model_path,
            model_name=spec.name,
            eval_config=said,
        )
        for spec in said.model_specs
    ]
    shared_model = models[0] if len(models) == 1 else models
    tfxio = tf_example_record.TFExampleRecord(
        examples_pattern,
        schema=_of_slices(schema, said),
        raw_record_column_name=tfma_constants.ARROW_INPUT_COLUMN,
        telemetry_descriptors=["ImageEvaluator"],
    )
    adapter_config = tensor_adapter.TensorAdapterConfig(
        arrow_schema=tfxio.ArrowSchema(), tensor_representations=tfxio.TensorRepresentations()
    )
    (
        pipeline
        | "Read" >> tfxio.BeamSource(batch_size)
        | "ExtractEvaluateAndWriteResults"
        >> tfma.ExtractEvaluateAndWriteResults(
            eval_shared_model=shared_model,
            eval_config=said,
            extractors=extractors.image_extractors(shared_model, said, adapter_config, label_groups),
            output_path=output_path,
            tensor_adapter_config=adapter_config,
        )
    )


def _of_slices(schema: schema_pb2.Schema, eval_config: config_pb2.EvalConfig) -> schema_pb2.Schema:
    """The part of a schema that tells the slice of an example, and its class, of which groups are derived."""
    keys = {key for spec in eval_config.slicing_specs for key in spec.feature_keys}.union(extractors.CLASS_FEATURES)
    part = schema_pb2.Schema()
    part.CopyFrom(schema)
    del part.feature[:]
    part.feature.extend(feature for feature in schema.feature if feature.name in keys)
    return part
