"""What TFMA measures, and for whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.metric_names import SEGMENTATION
from components.evaluator.options import EvaluationOptions, Slice
from pipeline.config.sections import slice_feature
from trainer_module import features

# As many pixels at once as memory easily takes, whatever their size: activations are a hundred times as large.
_PIXELS_AT_ONCE = 1 << 20
_MOST_EXAMPLES_AT_ONCE = 256


def eval_config(
    evaluation: EvaluationOptions,
    task: str,
    classes: Sequence[str],
    slices: Sequence[Slice],
    *,
    ignore_id: int | None = None,
) -> config_pb2.EvalConfig:
    """Builds TFMA's configuration; what a model must reach is not part of it (`components.evaluator.gates`).

    Args:
      evaluation: The configuration of the evaluation.
      task: `classification` or `segmentation`.
      classes: Class names; the index is the id.
      slices: Names of slice features without their prefix, and pairs of them.
      ignore_id: Label of the pixels of a mask that do not count.
    """
    # The model type is named: TFMA would otherwise try to load the export as a Keras 2 model.
    model = config_pb2.ModelSpec(
        label_key=features.LABEL,
        signature_name=features.EXAMPLES,
        preprocessing_function_names=[features.TRANSFORM_FEATURES],
        model_type="tf_generic",
    )
    if task == SEGMENTATION:
        name = "SegmentationReport"
        said: dict[str, Any] = {
            "num_classes": len(classes),
            "ignore_id": ignore_id,
            "label_key": features.LABEL,
            "prediction_key": "mask_png_bytes",
        }
    else:
        name = "ClassificationReport"
        said = {"num_classes": len(classes), "top_k": evaluation.top_k, "prediction_key": "probabilities"}
    report = config_pb2.MetricConfig(
        class_name=name, module="components.evaluator.metrics", config=json.dumps(said, sort_keys=True)
    )
    metrics = config_pb2.MetricsSpec(metrics=[report, config_pb2.MetricConfig(class_name="ExampleCount")])
    slicing = [config_pb2.SlicingSpec()]
    for entry in slices:
        names = (entry,) if isinstance(entry, str) else entry
        slicing.append(config_pb2.SlicingSpec(feature_keys=[slice_feature(name) for name in names]))
    built = config_pb2.EvalConfig(model_specs=[model], metrics_specs=[metrics], slicing_specs=slicing)
    if evaluation.confidence_intervals != "none":
        methods = config_pb2.ConfidenceIntervalOptions
        built.options.compute_confidence_intervals.value = True
        built.options.confidence_intervals.method = (
            methods.JACKKNIFE if evaluation.confidence_intervals == "jackknife" else methods.POISSON_BOOTSTRAP
        )
    return built


def batch_size(image_size: int) -> int:
    """How many pictures of that side, pixels, the model gets at once."""
    return min(_MOST_EXAMPLES_AT_ONCE, max(1, _PIXELS_AT_ONCE // image_size**2))
