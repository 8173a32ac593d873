"""Which earlier model a new one has to beat."""

from __future__ import annotations

import os

import ml_metadata as mlmd
import tensorflow as tf
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver
from tfx.utils import path_utils

from trainer_module import export


class LatestBlessedOtherModelStrategy(resolver.ResolverStrategy):
    """The newest blessed model that is not the candidate itself and knows the same classes.

    TFX's own strategy gives, once the candidate is blessed, the candidate: the next run would compare it with itself,
    and push it again. A model of other classes cannot be compared at all.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Resolves the inputs `model`, `model_blessing` and `candidate`.

        Returns:
          The same keys, with one model and its blessing, or with none where no model fits.
        """
        del store
        (candidate,) = input_dict["candidate"]
        labels = read_labels(candidate)
        blessings = {
            blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY): blessing
            for blessing in sorted(input_dict["model_blessing"], key=lambda blessing: blessing.id)
            if blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY) == 1
        }
        for model in sorted(input_dict["model"], key=lambda model: model.id, reverse=True):
            if model.id != candidate.id and model.id in blessings and read_labels(model) == labels:
                return {"model": [model], "model_blessing": [blessings[model.id]], "candidate": [candidate]}
        return {"model": [], "model_blessing": [], "candidate": [candidate]}


def read_labels(model: types.Artifact) -> str | None:
    """The exported model's list of class names as it is stored, or None if the export is gone."""
    path = os.path.join(path_utils.serving_model_path(model.uri), export.LABELS_FILE)
    try:
        with tf.io.gfile.GFile(path) as file:
            text: str = file.read()
            return text
    except tf.errors.OpError:
        return None
