"""What of earlier runs a new one is compared with: the model to beat, and the span before."""

from __future__ import annotations

import os

import ml_metadata as mlmd
import tensorflow as tf
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.example_validator.executor import SCHEMA_ID, STATISTICS_ID
from components.pusher.executor import MODEL_ID
from trainer_module import features, model_versions

# Of the Resolver's inputs those that hold a gate's verdict, in its property `blessed`.
_VERDICTS = ("model_blessing", "infra_blessing", "explanations")


class LatestBlessedOtherModelStrategy(resolver.ResolverStrategy):
    """The newest model that every gate has let pass, is not the candidate itself, and knows the same classes.

    TFX's own strategy gives, once the candidate is blessed, the candidate: the next run would compare it with itself,
    and push it again; and a model that was good, but too slow or too large to be served, would be the one to beat. So
    would one that was rolled back. A model of other classes cannot be compared at all.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Resolves the inputs `model`, those that hold a gate's verdict, and `candidate`.

        Returns:
          The same keys, with one model and its verdicts, or with none where no model fits.
        """
        withdrawn = _withdrawn_models(store)
        (candidate,) = input_dict["candidate"]
        labels = read_labels(candidate)
        passed = {key: _by_model(input_dict[key]) for key in _VERDICTS}
        chosen: dict[str, list[types.Artifact]] = {key: [] for key in ("model", *_VERDICTS)}
        for model in sorted(input_dict["model"], key=lambda model: model.id, reverse=True):
            by_all = model.id not in withdrawn and all(model.id in by_model for by_model in passed.values())
            if by_all and model.id != candidate.id and read_labels(model) == labels:
                chosen = {"model": [model]} | {key: [by_model[model.id]] for key, by_model in passed.items()}
                break
        return {**chosen, "candidate": [candidate]}


class PreviousSpanStrategy(resolver.ResolverStrategy):
    """Statistics and schema of the newest earlier span that passed validation, or nothing."""

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Resolves the inputs `statistics`, `schema`, `anomalies` and `current`.

        Returns:
          The same keys; but `current` all hold one artifact, or none where there is no earlier span.
        """
        del store
        (current,) = input_dict["current"]
        statistics = {artifact.id: artifact for artifact in input_dict["statistics"]}
        schemas = {artifact.id: artifact for artifact in input_dict["schema"]}
        # ExampleValidator leaves its artifact only where it let the images pass.
        passed = sorted(input_dict["anomalies"], key=lambda anomalies: (anomalies.span, anomalies.id), reverse=True)
        for anomalies in passed:
            of = statistics.get(anomalies.get_int_custom_property(STATISTICS_ID))
            schema = schemas.get(anomalies.get_int_custom_property(SCHEMA_ID))
            if of is not None and schema is not None and of.span < current.span:
                return {"statistics": [of], "schema": [schema], "anomalies": [anomalies], "current": [current]}
        return {"statistics": [], "schema": [], "anomalies": [], "current": [current]}


def _by_model(blessings: list[types.Artifact]) -> dict[int, types.Artifact]:
    """The newest good blessing of every model, by the model's id."""
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
    """The exported model's list of class names as it is stored, or None if the export is gone."""
    path = os.path.join(path_utils.serving_model_path(model.uri), features.LABELS_FILE)
    try:
        with tf.io.gfile.GFile(path) as file:
            text: str = file.read()
            return text
    except tf.errors.OpError:
        return None
