"""Evaluator: TFMA's figures for every slice, and a verdict of our own rules."""

from typing import Any, ClassVar

from tensorflow_model_analysis.proto import config_pb2
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, channel, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import json_utils

from components.evaluator import executor
from components.evaluator.options import EvaluationOptions


class ImageEvaluatorSpec(standard_component_specs.EvaluatorSpec):
    """TFX's, with what the rules need."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        **standard_component_specs.EvaluatorSpec.PARAMETERS,
        "task": component_spec.ExecutionParameter(type=str),
        "classes": component_spec.ExecutionParameter(type=str),
        "options": component_spec.ExecutionParameter(type=str),
        "source_hash": component_spec.ExecutionParameter(type=str),
    }


class ImageEvaluator(base_beam_component.BaseBeamComponent):
    """Measures a model, beside the last blessed one, and blesses or refuses it.

    Outputs:
      evaluation: As TFX's, and `figures.json` and `gates.json` (`components.evaluator.figures`).
      blessing: As TFX's.
    """

    SPEC_CLASS = ImageEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        *,
        examples: BaseChannel,
        model: BaseChannel,
        baseline_model: BaseChannel,
        schema: BaseChannel,
        split: str,
        eval_config: config_pb2.EvalConfig,
        task: str,
        classes: tuple[str, ...],
        options: EvaluationOptions,
        source_hash: str,
    ) -> None:
        """Takes what the instance needs.

        Args:
          examples: Raw examples.
          model: Trainer's `model`.
          baseline_model: The last blessed one; may resolve to nothing.
          schema: Of the examples.
          split: The evaluated split.
          eval_config: What TFMA measures; without thresholds.
          task: `classification` or `segmentation`.
          classes: Class names; the index is the id.
          options: The rules, with the defaults of the task.
          source_hash: Of the code behind this node: an edit runs it again.
        """
        super().__init__(
            spec=ImageEvaluatorSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                schema=schema,
                eval_config=eval_config,
                example_splits=json_utils.dumps([split]),
                fairness_indicator_thresholds=json_utils.dumps(None),
                module_path="components.evaluator.extractors",
                task=task,
                classes=json_utils.dumps(list(classes)),
                options=options.model_dump_json(),
                source_hash=source_hash,
                evaluation=channel.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=channel.Channel(type=standard_artifacts.ModelBlessing),
            )
        )
