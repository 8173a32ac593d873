"""Executor of ImageStatisticsGen."""

from __future__ import annotations

from typing import Any

from tfx.components.statistics_gen import executor
from tfx.types import artifact_utils

from components import classes, single_process
from components.artifacts import Artifacts
from components.image_example_gen.artifact import ClassNames
from trainer_module import private_api


class Executor(executor.Executor):
    """TFX's StatisticsGen, in one pass over the examples where that is possible.

    TFX builds 150 Beam transforms per split, which takes four seconds before the first example is read.
    """

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Writes the statistics of every split, and a copy of the class names; the keys are those of TFX."""
        statistics = artifact_utils.get_single_instance(output_dict["statistics"])
        ClassNames(names=classes.read(input_dict)).write(statistics.uri)

        def prepare() -> Any:
            from components.statistics_gen import single_pass

            return single_pass.prepare(input_dict, output_dict, exec_properties)

        single_pass = private_api.prepare(private_api.STATISTICS, prepare)
        if single_pass is None:
            super().Do(input_dict, output_dict, exec_properties)
            return
        if single_process.is_selected(self._beam_pipeline_args):
            single_pass.run()
            return
        with self._make_beam_pipeline() as pipeline:
            single_pass.add_to(pipeline)
