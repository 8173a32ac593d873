"""The configuration of models: name, base path, version policy and labels, from TF Serving's ModelServerConfig.

Source: TF Serving's config/model_server_config.proto, sources/storage_path/file_system_storage_path_source.proto and
the checks of model_servers/server_core.cc.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.protos import model_server_config_pb2
from trainer_module.locations import is_remote

_PLATFORM = "tensorflow"
_TENSORFLOW_TYPE = 1  # the deprecated ModelType
_COLLECTOR_TYPES = ("", "tfrecord")


@dataclass(frozen=True)
class VersionPolicy:
    """Selects the versions of a base path to serve.

    Attributes:
      num_versions: How many of the newest versions; None for all.
      versions: Specific versions; they override `num_versions`.
    """

    num_versions: int | None = 1
    versions: tuple[int, ...] = ()

    def aspired(self, present: Collection[int]) -> list[int]:
        """Returns the selected ones of the present versions, newest first."""
        newest_first = sorted(present, reverse=True)
        if self.versions:
            return [version for version in newest_first if version in self.versions]
        return newest_first[: self.num_versions]


@dataclass(frozen=True)
class LoggingConfig:
    """The request log of a model.

    Attributes:
      prefix: Folder, and beginning of the names of the files.
      sampling_rate: The fraction of the requests that are logged, range [0, 1].
    """

    prefix: str
    sampling_rate: float


@dataclass(frozen=True)
class ModelConfig:
    """One model: its name, the folder of its versions, which of them are served, their labels, and its request log."""

    name: str
    base_path: str
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)
    logging: LoggingConfig | None = None


def read_text(path: Path, message: Any) -> Any:
    """Reads a protobuf in text form.

    Raises:
      RequestError: NOT_FOUND if the file cannot be read, INVALID_ARGUMENT if it is not such a message.
    """
    try:
        return text_format.Parse(path.read_text(), message)
    except OSError as error:
        raise RequestError("NOT_FOUND", f"{path}: {error.strerror}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        # The line that TF Serving's protobuf library logs.
        logging.error("Error parsing text-format %s: %s", message.DESCRIPTOR.full_name, error)
        raise invalid_argument(f"Invalid protobuf file: '{path}': {error}") from None


def from_file(path: Path) -> list[ModelConfig]:
    """Reads --model_config_file."""
    return from_proto(read_text(path, model_server_config_pb2.ModelServerConfig()))


def from_proto(config: model_server_config_pb2.ModelServerConfig) -> list[ModelConfig]:
    """Checks a configuration as TF Serving does."""
    if config.WhichOneof("config") == "custom_model_config":
        raise RequestError("UNIMPLEMENTED", "ModelServer does not yet support custom model config.")
    models: dict[str, ModelConfig] = {}
    for entry in config.model_config_list.config:
        if entry.name in models:
            raise invalid_argument(f"Illegal to list model {entry.name} multiple times in config list")
        check_base_path(entry.name, entry.base_path)
        _check_platform(entry)
        models[entry.name] = ModelConfig(
            entry.name,
            entry.base_path,
            _policy(entry.model_version_policy),
            dict(entry.version_labels),
            _logging(entry.name, entry.logging_config) if entry.HasField("logging_config") else None,
        )
    return list(models.values())


def check_base_path(name: str, base_path: str) -> None:
    """Refuses a relative path."""
    if not base_path.startswith("/") and not is_remote(base_path):
        raise invalid_argument(f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}")


def _logging(name: str, config: Any) -> LoggingConfig:
    """Checks a LoggingConfig; the error for a type is that of TF Serving's core/log_collector.cc."""
    collector, rate = config.log_collector_config, config.sampling_config.sampling_rate
    if collector.type not in _COLLECTOR_TYPES:
        raise RequestError("NOT_FOUND", f"Cannot find LogCollector::Factory for type: {collector.type}")
    if not collector.filename_prefix.startswith("/"):
        raise invalid_argument(
            f"Expected model {name} to have an absolute local path as filename_prefix; got {collector.filename_prefix}"
        )
    if not 0 <= rate <= 1:
        raise invalid_argument(f"Expected model {name} to have a sampling_rate from 0 to 1; got {rate}")
    return LoggingConfig(collector.filename_prefix, rate)


def _check_platform(entry: Any) -> None:
    if entry.model_type and entry.model_platform:
        raise invalid_argument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
        )
    if entry.model_type not in (0, _TENSORFLOW_TYPE):
        raise invalid_argument(f"ModelServerConfig::model_type choice {entry.model_type} not supported.")
    if not entry.model_type and not entry.model_platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    if entry.model_platform not in ("", _PLATFORM):
        raise invalid_argument(f"Model {entry.name} requests unsupported platform {entry.model_platform}")


def _policy(policy: Any) -> VersionPolicy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy(num_versions=None)
    if choice == "specific":
        if not policy.specific.versions:
            raise invalid_argument("Specific version policy: at least one version must be named")
        return VersionPolicy(versions=tuple(policy.specific.versions))
    # Absent and 0 both mean the newest one.
    return VersionPolicy(num_versions=policy.latest.num_versions or 1)
