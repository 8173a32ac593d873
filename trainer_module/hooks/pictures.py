"""What the hooks of Trainer and Tuner read alike."""

from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from trainer_module import features, input_pipeline, tasks
from trainer_module.fitting import Pictures
from trainer_module.options import TrainerOptions


class Inputs(NamedTuple):
    """What is read.

    Attributes:
      pictures: Of the train and the validation split.
      tft_layer: The transform graph.
      raw_feature_spec: How to parse a raw example.
    """

    pictures: Pictures
    tft_layer: tf.keras.layers.Layer
    raw_feature_spec: dict[str, Any]


def read(fn_args: FnArgs, options: TrainerOptions, cache_dir: str, most_train_examples: int | None = None) -> Inputs:
    """Opens the transform graph and both splits.

    Args:
      fn_args: `train_files` and `eval_files` (raw examples) and `transform_graph_path`, as TFX sets them.
      options: What the pictures become, and the task's label.
      cache_dir: Receives the pixels, where they do not fit in memory.
      most_train_examples: Fewer of the train split: the first, which the hash of their names has mixed.
    """
    transform_output = tft.TFTransformOutput(fn_args.transform_graph_path)
    tft_layer = transform_output.transform_features_layer()
    raw_feature_spec = transform_output.raw_feature_spec()

    def transform(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        transformed: dict[str, tf.Tensor] = tft_layer(tf.io.parse_example(serialized, raw_feature_spec))
        return transformed

    def examples(split: str, files: list[str], most: int | None = None) -> tf.data.Dataset:
        count = input_pipeline.count(files)
        return input_pipeline.examples(
            files,
            transform,
            options.transform,
            num_examples=min(count, most or count),
            cache_dir=f"{cache_dir}/{split}",
            cache=options.training.cache,
            read_label=tasks.get(options.task.name).read_label,
        )

    pictures = Pictures(
        input_pipeline.read_pixel_statistics(fn_args.train_files, transform),
        examples(features.TRAIN, fn_args.train_files, most_train_examples),
        examples(features.VALIDATION, fn_args.eval_files),
    )
    return Inputs(pictures, tft_layer, raw_feature_spec)
