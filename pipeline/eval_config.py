"""TFMA's configuration of the evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.options import EvaluationOptions, Slice
from components.evaluator.slicing import slicing_specs
from trainer_module import features
from trainer_module.model_input import Size

# Limits of a batch: activations take about a hundred times the memory of the pixels.
_MAX_PIXELS = 1 << 20
_MAX_EXAMPLES = 256


def eval_config(
    evaluation: EvaluationOptions,
    task: str,
    classes: Sequence[str],
    slices: Sequence[Slice],
    *,
    ignore_id: int | None = None,
) -> config_pb2.EvalConfig:
    """Builds TFMA's configuration; bounds are not part of it (`components.evaluator.gates`).

    Args:
      evaluation: The section `[evaluation]`.
      task: Name of the task.
      classes: Class names; the index is the id.
      slices: Names of slice features without their prefix, and pairs of them.
      ignore_id: Label of the pixels of a mask that are not evaluated.
    """
    # The model type is given, or TFMA would try to load the export as a Keras 2 model.
    model = config_pb2.ModelSpec(
        label_key=features.LABEL,
        signature_name=features.EXAMPLES,
        preprocessing_function_names=[features.TRANSFORM_FEATURES],
        model_type="tf_generic",
    )
    parameters = {"task": task, "num_classes": len(classes), "top_k": evaluation.top_k, "ignore_id": ignore_id}
    task_metrics = config_pb2.MetricConfig(
        class_name="TaskMetrics", module="components.evaluator.metrics", config=json.dumps(parameters, sort_keys=True)
    )
    metrics = config_pb2.MetricsSpec(metrics=[task_metrics, config_pb2.MetricConfig(class_name="ExampleCount")])
    config = config_pb2.EvalConfig(model_specs=[model], metrics_specs=[metrics], slicing_specs=slicing_specs(slices))
    if evaluation.confidence_intervals != "none":
        methods = config_pb2.ConfidenceIntervalOptions
        config.options.compute_confidence_intervals.value = True
        config.options.confidence_intervals.method = (
            methods.JACKKNIFE if evaluation.confidence_intervals == "jackknife" else methods.POISSON_BOOTSTRAP
        )
    return config


def batch_size(image_size: Size) -> int:
    """Returns the number of images of this height and width, pixels, that the model receives at once."""
    return min(_MAX_EXAMPLES, max(1, _MAX_PIXELS // math.prod(image_size)))
