"""Reads the inputs that the hooks of Trainer and Tuner share."""

from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from trainer_module import features, input_pipeline, tasks
from trainer_module.distribution import ALL_EXAMPLES, Shard
from trainer_module.fitting import TrainingData
from trainer_module.options import TrainerOptions


class Inputs(NamedTuple):
    """The transform graph and the data.

    Attributes:
      data: The train and the validation split.
      tft_layer: The transform graph.
      raw_feature_spec: How to parse a raw example.
    """

    data: TrainingData
    tft_layer: tf.keras.layers.Layer
    raw_feature_spec: dict[str, Any]


def read_inputs(
    fn_args: FnArgs,
    options: TrainerOptions,
    cache_dir: str,
    max_examples: int | None = None,
    shard: Shard = ALL_EXAMPLES,
) -> Inputs:
    """Opens the transform graph and both splits.

    Args:
      fn_args: `train_files` and `eval_files` (raw examples) and `transform_graph_path`, as TFX sets them.
      options: Size and channels of the pixels, the task's label, the kind of cache.
      cache_dir: Receives the decoded pixels if they do not fit in memory.
      max_examples: Maximum number of train examples: the first ones, in an order that depends on the hash of their
        names.
      shard: The part of the train examples that this worker decodes.
    """
    transform_output = tft.TFTransformOutput(fn_args.transform_graph_path)
    tft_layer = transform_output.transform_features_layer()
    raw_feature_spec = transform_output.raw_feature_spec()

    def transform(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        transformed: dict[str, tf.Tensor] = tft_layer(tf.io.parse_example(serialized, raw_feature_spec))
        return transformed

    def examples(
        split: str, files: list[str], limit: int | None = None, shard: Shard = ALL_EXAMPLES
    ) -> tf.data.Dataset:
        count = input_pipeline.count_records(files)
        return input_pipeline.read_examples(
            files,
            transform,
            options.transform,
            num_examples=min(count, limit or count),
            cache_dir=f"{cache_dir}/{split}",
            cache=options.training.cache,
            shard=shard,
            read_label=tasks.get(options.task.name).read_label,
        )

    data = TrainingData(
        input_pipeline.read_pixel_statistics(fn_args.train_files, transform),
        examples(features.TRAIN, fn_args.train_files, max_examples, shard),
        examples(features.VALIDATION, fn_args.eval_files),
    )
    return Inputs(data, tft_layer, raw_feature_spec)
