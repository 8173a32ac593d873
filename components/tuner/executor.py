"""Executor of TableTuner: TFX's search, with a table of the trials."""

from __future__ import annotations

import os
from typing import Any

from tfx.components.tuner import executor
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils

from components import classes
from components.artifacts import Artifacts
from components.tuner.artifact import TRIALS_FILE
from trainer_module import tuning


class Executor(base_executor.BaseExecutor):
    """Executor of a tuner_fn whose tuner is a `trainer_module.tuning.Search`."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Searches hyperparameters.

        Args:
          input_dict: `examples` (raw), `transform_graph`.
          output_dict: `best_hyperparameters` (KerasTuner's JSON), `tuner_results`: `tuner_results.json`, `trials.csv`.
          exec_properties: `tuner_fn`, `train_args`, `eval_args`, `custom_config` (whose `options` lacks `classes`).
        """
        exec_properties = classes.with_options(exec_properties, input_dict)
        search = executor.search(input_dict, exec_properties, self._get_tmp_dir(), print_tuning_summary=False)
        executor.write_best_hyperparameters(search, output_dict)
        results_uri = artifact_utils.get_single_uri(output_dict["tuner_results"])
        tuning.write_table(search.results(), os.path.join(results_uri, TRIALS_FILE))
