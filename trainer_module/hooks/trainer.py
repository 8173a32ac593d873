"""What TFX Trainer calls."""

import keras
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from trainer_module import export, input_pipeline, training
from trainer_module.options import TrainerOptions
from trainer_module.tasks import classification


# TFX Trainer calls this function.
def run_fn(fn_args: FnArgs) -> None:
    """Trains on the transformed train split, watches the validation split, exports.

    Args:
      fn_args: `custom_config["options"]` is TrainerOptions as JSON; `train_files`, `eval_files`,
        `transform_output`, `serving_model_dir` and `model_run_dir` as TFX sets them.
    """
    options = TrainerOptions.model_validate_json(fn_args.custom_config["options"])
    keras.utils.set_random_seed(options.training.seed)
    transform_output = tft.TFTransformOutput(fn_args.transform_output)
    statistics = input_pipeline.read_pixel_statistics(fn_args.train_files, options.transform.channels)
    model = classification.build_model(options, statistics)
    training.train(
        model,
        options,
        train_data=input_pipeline.batches(
            fn_args.train_files, options.transform, options.training.batch_size, shuffle_seed=options.training.seed
        ),
        validation_data=input_pipeline.batches(fn_args.eval_files, options.transform, options.training.batch_size),
        run_dir=fn_args.model_run_dir,
    )
    export.export(
        model,
        options,
        tft_layer=transform_output.transform_features_layer(),
        raw_feature_spec=transform_output.raw_feature_spec(),
        serving_dir=fn_args.serving_model_dir,
        run_dir=fn_args.model_run_dir,
    )
