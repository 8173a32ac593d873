"""What TFX Trainer calls."""

import os

import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs

from trainer_module import export, features, fitting, search_space
from trainer_module.hooks import pictures
from trainer_module.options import TrainerOptions


# TFX Trainer calls this function.
def run_fn(fn_args: FnArgs) -> None:
    """Trains on the train split, watches the validation split, exports.

    Args:
      fn_args: `custom_config["options"]` is TrainerOptions as JSON; `train_files` and `eval_files` (raw examples),
        `transform_graph_path`, `serving_model_dir` and `model_run_dir` as TFX sets them; `hyperparameters`, if Tuner
        ran, is KerasTuner's JSON, whose values replace those of the options.
    """
    options = TrainerOptions.model_validate_json(fn_args.custom_config["options"])
    if fn_args.hyperparameters:
        options = search_space.with_values(options, search_space.found_values(fn_args.hyperparameters))
    cache_dir = os.path.join(fn_args.model_run_dir, "cache")
    inputs = pictures.read(fn_args, options, cache_dir)
    model, _ = fitting.fit(options, inputs.pictures, fn_args.model_run_dir)
    export.export(
        model,
        options,
        tft_layer=inputs.tft_layer,
        raw_feature_spec=inputs.raw_feature_spec,
        serving_dir=fn_args.serving_model_dir,
        run_dir=fn_args.model_run_dir,
    )
    with tf.io.gfile.GFile(os.path.join(fn_args.model_run_dir, features.OPTIONS_FILE), "w") as file:
        file.write(options.model_dump_json(indent=2))
    if tf.io.gfile.exists(cache_dir):
        tf.io.gfile.rmtree(cache_dir)
