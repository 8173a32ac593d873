"""The hook of TFX Tuner."""

import shutil
import tempfile
import weakref

from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner.component import TunerFnResult

from trainer_module import tuning
from trainer_module.hooks.inputs import read_inputs
from trainer_module.locations import is_remote
from trainer_module.options import TrainerOptions
from trainer_module.search_space import TunerOptions


# TFX Tuner calls this function.
def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """Prepares the search on the train and the validation split.

    Args:
      fn_args: `custom_config["options"]` is TrainerOptions and `custom_config["tuner"]` TunerOptions, as JSON;
        `train_files` and `eval_files` (raw examples), `transform_graph_path` and `working_dir` as TFX sets them.
    """
    options = TrainerOptions.model_validate_json(fn_args.custom_config["options"])
    tuner = TunerOptions.model_validate_json(fn_args.custom_config["tuner"])
    # The files of running trials must be local, and TFX's folder may be in an object store.
    scratch = tempfile.mkdtemp(dir=None if is_remote(fn_args.working_dir) else fn_args.working_dir)
    inputs = read_inputs(fn_args, options, f"{scratch}/cache", tuner.max_examples)
    search = tuning.Search(options, tuner, inputs.data, scratch)
    weakref.finalize(search, shutil.rmtree, scratch, ignore_errors=True)
    return TunerFnResult(tuner=search, fit_kwargs={})
