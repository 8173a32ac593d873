"""Finds the artifacts of earlier runs that a new run is compared with: the baseline model and the previous span."""

from __future__ import annotations

import os

import ml_metadata as mlmd
import tensorflow as tf
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.artifacts import Artifacts
from components.example_validator.executor import SCHEMA_ID, STATISTICS_ID
from components.pusher.executor import MODEL_ID
from trainer_module import features, model_versions

# The inputs of the Resolver that contain the verdict of a gate, in the property `blessed`.
_VERDICTS = ("model_blessing", "infra_blessing", "explanations")


class LatestBlessedOtherModelStrategy(resolver.ResolverStrategy):
    """Selects the newest other model that every gate has blessed and that was not rolled back.

    TFX's own strategy selects the newest blessed model. That can be the candidate itself, which a later run would
    compare with itself, or a model that was too slow or too large to be served, or one that was rolled back. Evaluator
    compares models with different class lists on the classes that both have.
    """

    def resolve_artifacts(self, store: mlmd.MetadataStore, input_dict: Artifacts) -> Artifacts:
        """Resolves the inputs `model`, the verdicts of the gates, and `candidate`.

        Returns:
          The same keys, with one model and its verdicts, or without any if no model fits.
        """
        withdrawn = _withdrawn_models(store)
        (candidate,) = input_dict["candidate"]
        passed = {key: _by_model(input_dict[key]) for key in _VERDICTS}
        chosen: Artifacts = {key: [] for key in ("model", *_VERDICTS)}
        for model in sorted(input_dict["model"], key=lambda model: model.id, reverse=True):
            by_all = model.id not in withdrawn and all(model.id in by_model for by_model in passed.values())
            if by_all and model.id != candidate.id and read_labels(model) is not None:
                chosen = {"model": [model]} | {key: [by_model[model.id]] for key, by_model in passed.items()}
                break
        return {**chosen, "candidate": [candidate]}


class PreviousSpanStrategy(resolver.ResolverStrategy):
    """Selects statistics and schema of the newest earlier span that passed validation."""

    def resolve_artifacts(self, store: mlmd.MetadataStore, input_dict: Artifacts) -> Artifacts:
        """Resolves the inputs `statistics`, `schema`, `anomalies` and `current`.

        Returns:
          The same keys; all except `current` have one artifact, or none if there is no earlier span.
        """
        del store
        (current,) = input_dict["current"]
        statistics = {artifact.id: artifact for artifact in input_dict["statistics"]}
        schemas = {artifact.id: artifact for artifact in input_dict["schema"]}
        # ExampleValidator has an artifact only if it has blessed the images.
        passed = sorted(input_dict["anomalies"], key=lambda anomalies: (anomalies.span, anomalies.id), reverse=True)
        for anomalies in passed:
            validated = statistics.get(anomalies.get_int_custom_property(STATISTICS_ID))
            schema = schemas.get(anomalies.get_int_custom_property(SCHEMA_ID))
            if validated is not None and schema is not None and validated.span < current.span:
                return {"statistics": [validated], "schema": [schema], "anomalies": [anomalies], "current": [current]}
        return {"statistics": [], "schema": [], "anomalies": [], "current": [current]}


def _by_model(blessings: list[types.Artifact]) -> dict[int, types.Artifact]:
    """The newest positive blessing of every model, by the id of the model."""
    return {
        blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY): blessing
        for blessing in sorted(blessings, key=lambda blessing: blessing.id)
        if blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY) == 1
    }


def _withdrawn_models(store: mlmd.MetadataStore) -> set[int]:
    """Ids of the models whose pushed version was rolled back."""
    return {
        pushed.custom_properties[MODEL_ID].int_value
        for pushed in store.get_artifacts_by_type(standard_artifacts.PushedModel.TYPE_NAME)
        if model_versions.is_withdrawn(pushed.custom_properties["pushed_destination"].string_value)
    }


def read_labels(model: types.Artifact) -> str | None:
    """The stored list of class names of an exported model; None if the export does not exist any more."""
    path = os.path.join(path_utils.serving_model_path(model.uri), features.LABELS_FILE)
    try:
        with tf.io.gfile.GFile(path) as file:
            text: str = file.read()
            return text
    except tf.errors.OpError:
        return None
