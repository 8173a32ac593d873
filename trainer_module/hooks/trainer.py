"""What TFX Trainer calls."""

import json
import os
import tempfile

import keras
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from trainer_module import distribution, export, features, input_pipeline, tasks, training
from trainer_module.checkpoints import CheckpointFile
from trainer_module.options import TrainerOptions


# TFX Trainer calls this function.
def run_fn(fn_args: FnArgs) -> None:
    """Trains on the train split, watches the validation split, exports.

    Args:
      fn_args: `custom_config["options"]` is TrainerOptions as JSON; `train_files` and `eval_files` (raw examples),
        `transform_output`, `serving_model_dir` and `model_run_dir` as TFX sets them.
    """
    options = TrainerOptions.model_validate_json(fn_args.custom_config["options"])
    strategy = distribution.strategy(options.training.distribution)  # before TensorFlow computes anything
    keras.utils.set_random_seed(options.training.seed)
    transform_output = tft.TFTransformOutput(fn_args.transform_output)
    tft_layer = transform_output.transform_features_layer()
    raw_feature_spec = transform_output.raw_feature_spec()

    def transform(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        transformed: dict[str, tf.Tensor] = tft_layer(tf.io.parse_example(serialized, raw_feature_spec))
        return transformed

    def batches(split: str, files: list[str], shuffle_seed: int | None = None) -> tf.data.Dataset:
        return input_pipeline.batches(
            files,
            transform,
            options.transform,
            options.training.batch_size,
            num_examples=input_pipeline.count(files),
            cache_dir=os.path.join(run_dir, "cache", split),
            shuffle_seed=shuffle_seed,
            read_label=task.read_label,
        )

    # Every worker trains and only one writes what is kept.
    is_chief = distribution.is_chief(strategy)
    run_dir = fn_args.model_run_dir if is_chief else tempfile.mkdtemp()
    statistics = input_pipeline.read_pixel_statistics(fn_args.train_files, transform)
    task = tasks.of(options)
    read = [fn_args.custom_config, fn_args.train_files, fn_args.eval_files, fn_args.transform_output]
    checkpoint_path = os.path.join(fn_args.custom_config["checkpoint_dir"], "trainer.npz") if is_chief else None
    checkpoint = CheckpointFile(checkpoint_path, key=json.dumps(read))
    with strategy.scope():
        model = task.build_model(options, statistics)
        training.train(
            model,
            options,
            train_data=batches(features.TRAIN, fn_args.train_files, options.training.seed),
            validation_data=batches(features.VALIDATION, fn_args.eval_files),
            run_dir=run_dir,
            checkpoint=checkpoint,
        )
    if is_chief:
        export.export(
            model,
            options,
            tft_layer=tft_layer,
            raw_feature_spec=raw_feature_spec,
            serving_dir=fn_args.serving_model_dir,
            run_dir=run_dir,
        )
    checkpoint.delete()
    if tf.io.gfile.exists(os.path.join(run_dir, "cache")):
        tf.io.gfile.rmtree(os.path.join(run_dir, "cache"))
