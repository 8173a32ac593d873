"""What TFX Trainer calls."""

import json
import os
import tempfile

import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs

from trainer_module import distribution, export, features, fitting, search_space
from trainer_module.checkpoints import CheckpointFile
from trainer_module.hooks import pictures
from trainer_module.locations import is_remote
from trainer_module.options import TrainerOptions


# TFX Trainer calls this function.
def run_fn(fn_args: FnArgs) -> None:
    """Trains on the train split, watches the validation split, exports.

    Args:
      fn_args: `custom_config["options"]` is TrainerOptions as JSON, `custom_config["checkpoint_dir"]` where an
        interrupted training is found again; `train_files` and `eval_files` (raw examples), `transform_graph_path`,
        `serving_model_dir` and `model_run_dir` as TFX sets them; `hyperparameters`, if Tuner ran, is KerasTuner's
        JSON, whose values replace those of the options.
    """
    options = TrainerOptions.model_validate_json(fn_args.custom_config["options"])
    if fn_args.hyperparameters:
        options = search_space.with_values(options, search_space.found_values(fn_args.hyperparameters))
    strategy = distribution.strategy(options.training.distribution)  # before TensorFlow computes anything
    # Every worker trains, and reads where an interrupted training was; only one writes what is kept.
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
    with tempfile.TemporaryDirectory() as thrown_away:
        run_dir = fn_args.model_run_dir if is_chief else thrown_away
        # What is read in every epoch should be near: of a store's run_dir, on this machine.
        cache_dir = os.path.join(thrown_away if is_remote(run_dir) else run_dir, "cache")
        inputs = pictures.read(fn_args, options, cache_dir)
        model, _ = fitting.fit(
            options, inputs.pictures, run_dir, strategy=strategy, checkpoint=checkpoint, cache_dir=cache_dir
        )
        if is_chief:
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
