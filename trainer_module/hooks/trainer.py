"""The hook of TFX Trainer."""

import json
import os
import tempfile

import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs

from trainer_module import (
    distribution,
    export,
    features,
    fitting,
    input_pipeline,
    search_space,
    tasks,
    test_time_augmentation,
)
from trainer_module.checkpoints import CheckpointFile
from trainer_module.hooks.inputs import read_inputs
from trainer_module.locations import is_remote
from trainer_module.options import TrainerOptions


# TFX Trainer calls this function.
def run_fn(fn_args: FnArgs) -> None:
    """Trains on the train split, validates on the validation split, exports the model.

    Args:
      fn_args: `custom_config["options"]` is TrainerOptions as JSON, `custom_config["checkpoint_dir"]` the folder of the
        checkpoint from which an interrupted training resumes; `train_files` and `eval_files` (raw examples),
        `transform_graph_path`, `serving_model_dir` and `model_run_dir` as TFX sets them; `hyperparameters`, if Tuner
        ran, is KerasTuner's JSON, whose values replace those of the options.
    """
    options = TrainerOptions.model_validate_json(fn_args.custom_config["options"])
    if fn_args.hyperparameters:
        options = search_space.replace_values(options, search_space.tuned_values(fn_args.hyperparameters))
    strategy = distribution.strategy(options.training.distribution)  # before TensorFlow computes anything
    # The served model decodes request bytes as ImageExampleGen has decoded the images.
    options = options.model_copy(update={"window": input_pipeline.read_window(fn_args.train_files)})
    # Every worker trains and reads the checkpoint of an interrupted training; only the chief's files are kept.
    is_chief = distribution.is_chief(strategy)
    checkpoint = CheckpointFile(
        os.path.join(fn_args.custom_config["checkpoint_dir"], "trainer.npz"),
        key=json.dumps(
            [
                options.model_dump_json(),
                fn_args.custom_config["source_hash"],
                *(fn_args.train_files, fn_args.eval_files, fn_args.transform_graph_path),
            ]
        ),
        is_written=is_chief,
    )
    with tempfile.TemporaryDirectory() as temporary_dir:
        run_dir = fn_args.model_run_dir if is_chief else temporary_dir
        # Every epoch reads the cache: it must be on this machine even if run_dir is in an object store.
        cache_dir = os.path.join(temporary_dir if is_remote(run_dir) else run_dir, "cache")
        inputs = read_inputs(fn_args, options, cache_dir, shard=distribution.shard(strategy))
        model, _ = fitting.fit(
            options, inputs.data, run_dir, strategy=strategy, checkpoint=checkpoint, cache_dir=cache_dir
        )
        if is_chief:
            validation = input_pipeline.batch_examples(inputs.data.validation, options.training.batch_size)
            predictor = test_time_augmentation.averaged(model, options)
            options = tasks.get(options.task.name).calibrate(predictor, validation, options)
            export.export(
                model,
                options,
                tft_layer=inputs.tft_layer,
                raw_feature_spec=inputs.raw_feature_spec,
                serving_dir=fn_args.serving_model_dir,
                run_dir=run_dir,
            )
            with tf.io.gfile.GFile(os.path.join(run_dir, features.OPTIONS_FILE), "w") as file:
                file.write(options.model_dump_json(indent=2))
        checkpoint.delete()
        if tf.io.gfile.exists(cache_dir):
            tf.io.gfile.rmtree(cache_dir)
