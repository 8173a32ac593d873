"""Evaluator: evaluates a model on every slice, and blesses or refuses it."""

from typing import Any, ClassVar

from tensorflow_model_analysis.proto import config_pb2
from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import BaseChannel, channel, component_spec, standard_artifacts, system_executions

from components import specs
from components.evaluator import executor
from components.evaluator.options import EvaluationOptions


class ImageEvaluatorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters."""

    PARAMETERS: ClassVar[dict[str, Any]] = specs.texts("split", "task", "options", "source_hash") | {
        "eval_config": component_spec.ExecutionParameter(type=config_pb2.EvalConfig),
        "batch_size": component_spec.ExecutionParameter(type=int),
        "image_size": component_spec.ExecutionParameter(type=int),
    }
    INPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        examples=standard_artifacts.Examples,
        model=standard_artifacts.Model,
        schema=standard_artifacts.Schema,
        statistics=standard_artifacts.ExampleStatistics,
    ) | specs.optional_artifacts(baseline_model=standard_artifacts.Model)
    OUTPUTS: ClassVar[dict[str, Any]] = specs.artifacts(
        evaluation=standard_artifacts.ModelEvaluation, blessing=standard_artifacts.ModelBlessing
    )
    TYPE_ANNOTATION = system_executions.Evaluate


class ImageEvaluator(base_beam_component.BaseBeamComponent):
    """Evaluates a model and the last blessed one, and blesses or refuses the new one.

    Outputs:
      evaluation: As TFX's, with `evaluation.json` and `gates.json` in addition (`components.evaluator.artifact`).
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
        statistics: BaseChannel,
        split: str,
        eval_config: config_pb2.EvalConfig,
        batch_size: int,
        image_size: int,
        task: str,
        options: EvaluationOptions,
        source_hash: str,
    ) -> None:
        """Constructs the node.

        Args:
          examples: Raw examples.
          model: Trainer's `model`.
          baseline_model: The last blessed model; may resolve to nothing.
          schema: Schema of the examples.
          statistics: StatisticsGen's `statistics`, of which those of the classes in the train split are read.
          split: The evaluated split.
          eval_config: TFMA's configuration, without thresholds.
          batch_size: Largest number of examples that a model receives at once.
          image_size: Shorter side of the model input, pixels; read for corruptions only.
          task: Name of the task.
          options: The bounds, with the defaults of the task.
          source_hash: Hash of the node's code: an edit runs it again.
        """
        super().__init__(
            spec=ImageEvaluatorSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                schema=schema,
                statistics=statistics,
                eval_config=eval_config,
                split=split,
                batch_size=batch_size,
                image_size=image_size,
                task=task,
                options=options.model_dump_json(),
                source_hash=source_hash,
                evaluation=channel.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=channel.Channel(type=standard_artifacts.ModelBlessing),
            )
        )
