"""Executor of ImageTransform."""

from __future__ import annotations

from typing import Any

from tfx.components.transform import executor

from components import classes, single_process
from components.artifacts import Artifacts
from trainer_module import private_api


class Executor(executor.Executor):
    """TFX's Transform, in one pass over the examples where that is possible.

    TFX traces the function ten times and builds 300 Beam transforms, which takes four seconds in addition to reading
    the examples.
    """

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:
        """Analyses the splits in `splits_config` and writes the transform graph; the keys are those of TFX.

        The preprocessing_fn gets the class names of the examples as `custom_config["classes"]`.
        """
        exec_properties = classes.with_names(exec_properties, input_dict)

        def prepare() -> Any:
            from components.transform import single_pass

            return single_pass.prepare(input_dict, output_dict, exec_properties)

        single_pass = private_api.prepare(private_api.TRANSFORM, prepare)
        if single_pass is None:
            super().Do(input_dict, output_dict, exec_properties)
            return
        if single_process.is_selected(self._beam_pipeline_args):
            single_pass.run()
            return
        with self._make_beam_pipeline() as pipeline:
            single_pass.add_to(pipeline)
