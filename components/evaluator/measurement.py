"""The Beam pipeline of an evaluation: raw examples → TFMA's results of every slice, on disk."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

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
    class_features: Sequence[str],
    corrupt: beam.DoFn | None = None,
) -> None:
    """Adds the evaluation of one model, or of two side by side, to a Beam pipeline.

    TFX's Evaluator decodes all features of all examples, most of which is images, and keeps them in memory. This one
    decodes only the features that distinguish slices; the model receives the serialized example.

    Args:
      pipeline: Receives the steps.
      examples_pattern: TFRecord files of raw examples.
      schema: Schema of the examples.
      eval_config: TFMA's configuration for one model; without thresholds.
      model_path: SavedModel of the candidate.
      baseline_path: SavedModel of the baseline, if there is one.
      output_path: Receives TFMA's files.
      batch_size: Number of examples that a model receives at once.
      label_groups: Name → classes.
      class_features: Features that contain class names, from which label groups are derived.
      corrupt: Serialized examples → those that are evaluated in their place.
    """
    config = tfma.utils.update_eval_config_with_defaults(
        eval_config, has_baseline=baseline_path is not None, rubber_stamp=True
    )
    tfma.utils.verify_eval_config(config)
    models = [
        tfma.default_eval_shared_model(
            eval_saved_model_path=baseline_path if spec.is_baseline else model_path,
            model_name=spec.name,
            eval_config=config,
        )
        for spec in config.model_specs
    ]
    shared_model = models[0] if len(models) == 1 else models
    slice_features = {key for spec in config.slicing_specs for key in spec.feature_keys}
    tfxio = tf_example_record.TFExampleRecord(
        examples_pattern,
        schema=_subset(schema, slice_features.union(class_features)),
        raw_record_column_name=tfma_constants.ARROW_INPUT_COLUMN,
        telemetry_descriptors=["ImageEvaluator"],
    )
    adapter_config = tensor_adapter.TensorAdapterConfig(
        arrow_schema=tfxio.ArrowSchema(), tensor_representations=tfxio.TensorRepresentations()
    )
    if corrupt:
        corrupted = pipeline | "Read" >> tfxio.RawRecordBeamSource() | "Corrupt" >> beam.ParDo(corrupt)
        batches = corrupted | "Batch" >> tfxio.RawRecordToRecordBatch(batch_size)
    else:
        batches = pipeline | "Read" >> tfxio.BeamSource(batch_size)
    extracts = batches | "Extracts" >> tfma.BatchedInputsToExtracts()
    for extractor in extractors.image_extractors(shared_model, config, adapter_config, label_groups, class_features):
        extracts |= extractor.stage_name >> extractor.ptransform
    (evaluator,) = tfma.default_evaluators(eval_config=config, eval_shared_model=shared_model)
    evaluation = extracts | evaluator.stage_name >> evaluator.ptransform
    evaluation | "WriteResults" >> tfma.WriteResults(writers=_writers(config, models, output_path))


def _writers(
    config: config_pb2.EvalConfig, models: Sequence[tfma.types.EvalSharedModel], output_path: str
) -> list[tfma.writers.Writer]:
    """Returns the writers of the configuration, the metrics and the plots.

    TFMA's default ones also write attributions, of which there are none, and validations, which nothing reads: the
    bounds are not part of the configuration. Both take a third of the stages of the Beam pipeline.
    """
    keys = (tfma_constants.METRICS_KEY, tfma_constants.PLOTS_KEY)
    return [
        tfma.writers.EvalConfigWriter(
            output_path, eval_config=config, model_locations={model.model_name: model.model_path for model in models}
        ),
        tfma.writers.MetricsPlotsAndValidationsWriter(
            output_paths={key: os.path.join(output_path, key) for key in keys}, eval_config=config
        ),
    ]


def _subset(schema: schema_pb2.Schema, keys: Collection[str]) -> schema_pb2.Schema:
    """Returns a copy of a schema with some of its features."""
    part = schema_pb2.Schema()
    part.CopyFrom(schema)
    del part.feature[:]
    part.feature.extend(feature for feature in schema.feature if feature.name in keys)
    return part
