"""Models that judge images: a pushed version on this machine, or a model server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from components.image_example_gen.errors import DatasetError
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from trainer_module import features, locations, model_versions
from trainer_module.error_text import first_line
from trainer_module.locations import join
from trainer_module.tasks import Labeling, RawLabel

if TYPE_CHECKING:
    from serving.client import Client

EMBEDDING = "embedding"


class Predictor(Protocol):
    """Computes outputs of signatures for image files.

    Attributes:
      description: The model in words: `digits, version 3`.
      key: Distinguishes it from models with other embeddings.
      classes: Class names in the order of its ids; None if they are not known.
    """

    description: str
    key: str
    classes: tuple[str, ...] | None

    def outputs(self, wanted: Mapping[str, Sequence[str]], encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the named outputs of signatures: output name → array [N, ...]."""


class PushedModel:
    """A pushed version, run in this process."""

    def __init__(self, export_dir: str, description: str) -> None:
        """Loads it.

        Raises:
          ConfigError: If it cannot be loaded.
        """
        from trainer_module.session_model import SessionModel

        try:
            self._model = SessionModel(export_dir)
        except Exception as error:  # the errors of the loader have no common class
            raise ConfigError(f"{export_dir} cannot be loaded: {first_line(error)}") from None
        self.description, self.key = description, export_dir
        self.classes = _classes(export_dir)

    def outputs(self, wanted: Mapping[str, Sequence[str]], encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        """See `Predictor`."""
        outputs: dict[str, np.ndarray] = {}
        for signature, names in wanted.items():
            definition = self._model.signatures.get(signature)
            if definition is None or not set(names) <= set(definition.outputs):
                raise ConfigError(
                    f"{self.description} has no signature `{signature}` with the outputs {', '.join(names)}: it is not "
                    "a model of this task that tfx-vision has pushed."
                )
            outputs |= self._model.run_on(signature, encoded, names)
        return outputs

    def close(self) -> None:
        """Frees the model."""
        self._model.close()


def _classes(export_dir: str) -> tuple[str, ...] | None:
    try:
        return tuple(json.loads(locations.read(join(export_dir, features.LABELS_FILE))))
    except (OSError, ValueError):  # not a model of this program
        return None


class ServedModel:
    """A model of a server."""

    def __init__(self, client: Client) -> None:
        """Takes the client of the model.

        Raises:
          ServerError: If the server does not have the model.
        """
        self._client = client
        self.classes: tuple[str, ...] | None = None
        self._version = client.metadata().version
        self.description, self.key = f"version {self._version} of the server", f"server-{self._version}"

    def outputs(self, wanted: Mapping[str, Sequence[str]], encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        """See `Predictor`.

        Raises:
          ServerError: If the server does not respond.
        """
        outputs: dict[str, np.ndarray] = {}
        for signature, names in wanted.items():
            responses = self._client.outputs(signature, list(encoded)).or_raise()
            if any(response.version not in (None, self._version) for response in responses):
                raise DatasetError(
                    "The server has loaded another version meanwhile, and predictions of two versions cannot be "
                    "compared. Run the command again, or choose one with --version."
                )
            missing = [name for name in names if name not in responses[0].values]
            if missing:
                raise DatasetError(f"The signature `{signature}` of the server has no output {', '.join(missing)}.")
            outputs |= {name: _stacked([response.values[name] for response in responses]) for name in names}
        return outputs


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    if isinstance(rows[0], bytes):
        strings = np.empty(len(rows), object)
        strings[:] = list(rows)
        return strings
    return np.stack([np.asarray(row) for row in rows])


def pushed(config: PipelineConfig) -> PushedModel:
    """Loads the newest pushed version.

    Raises:
      ConfigError: If there is none.
    """
    versions = model_versions.list_versions(config.model_base_path).served
    if not versions:
        raise ConfigError(
            f"{config.model_base_path} has no pushed version: run the pipeline first, or use a server (--grpc)."
        )
    return pushed_version(config, versions[0])


def pushed_version(config: PipelineConfig, version: int) -> PushedModel:
    """Loads a pushed version.

    Raises:
      ConfigError: If it cannot be loaded.
    """
    return PushedModel(join(config.model_base_path, str(version)), f"{config.model_name}, version {version}")


def proposals(
    predictor: Predictor, labeling: Labeling, encoded: Iterable[bytes], classes: Sequence[str] = ()
) -> Iterator[RawLabel]:
    """Predicts labels, one image at a time: masks of images differ in size.

    Args:
      predictor: The model.
      labeling: Of the task.
      encoded: The image files.
      classes: Class names in the order of the ids, of a model that does not know its own.
    """
    for content in encoded:
        (proposal,) = labeling.proposal(predictor.outputs(labeling.outputs, [content]), predictor.classes or classes)
        yield proposal
