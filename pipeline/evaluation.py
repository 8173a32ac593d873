"""What the Evaluator measures, for whom, and what a model must reach."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tensorflow_model_analysis.proto import config_pb2

from pipeline.config import GATED_METRICS, EvaluationSection, slice_feature
from trainer_module import features

CROSS_ENTROPY = "cross_entropy"
EXAMPLE_COUNT = "example_count"


def eval_config(evaluation: EvaluationSection, classes: Sequence[str], slices: Sequence[str]) -> config_pb2.EvalConfig:
    """Builds TFMA's configuration.

    Args:
      evaluation: Thresholds.
      classes: Class names; the index is the id.
      slices: Names of slice features without their prefix.

    Returns:
      Change thresholds included: TFX's Evaluator drops them where no model was blessed before.
    """
    # The model type is named: TFMA would otherwise try to load the export as a Keras 2 model.
    model = config_pb2.ModelSpec(
        label_key=features.LABEL,
        prediction_key="probabilities",
        signature_name=features.EXAMPLES,
        preprocessing_function_names=[features.TRANSFORM_FEATURES],
        model_type="tf_generic",
    )
    cross_entropy = config_pb2.MetricConfig(
        class_name="SparseCategoricalCrossentropy", config=json.dumps({"name": CROSS_ENTROPY})
    )
    metrics = config_pb2.MetricsSpec(
        metrics=[
            config_pb2.MetricConfig(
                class_name="ClassificationReport",
                module="trainer_module.hooks.metrics",
                config=json.dumps({"num_classes": len(classes)}),
            ),
            config_pb2.MetricConfig(class_name="ExampleCount"),
            config_pb2.MetricConfig(class_name="MultiClassConfusionMatrixPlot", config='{"thresholds": [0.0]}'),
        ]
    )
    for name in GATED_METRICS:
        threshold = _threshold(name, evaluation)
        if threshold is None:
            continue
        # A threshold without a slicing specification would hold for every slice, however few examples it has.
        overall = config_pb2.PerSliceMetricThreshold(slicing_specs=[config_pb2.SlicingSpec()], threshold=threshold)
        if name == CROSS_ENTROPY:
            cross_entropy.per_slice_thresholds.append(overall)
        else:
            metrics.per_slice_thresholds[name].thresholds.append(overall)
    metrics.metrics.append(cross_entropy)
    slicing = [config_pb2.SlicingSpec()]
    slicing += [config_pb2.SlicingSpec(feature_keys=[slice_feature(name)]) for name in slices]
    return config_pb2.EvalConfig(model_specs=[model], metrics_specs=[metrics], slicing_specs=slicing)


def _threshold(name: str, evaluation: EvaluationSection) -> config_pb2.MetricThreshold | None:
    higher = GATED_METRICS[name] == "higher"
    threshold = config_pb2.MetricThreshold()
    if name in evaluation.thresholds:
        bound = evaluation.thresholds[name]
        if higher:
            threshold.value_threshold.lower_bound.value = bound
        else:
            threshold.value_threshold.upper_bound.value = bound
    if name in evaluation.change_thresholds:
        allowed = evaluation.change_thresholds[name]
        change = threshold.change_threshold
        direction = config_pb2.MetricDirection
        change.direction = direction.HIGHER_IS_BETTER if higher else direction.LOWER_IS_BETTER
        change.absolute.value = -allowed if higher else allowed
    return threshold if threshold.ByteSize() else None
