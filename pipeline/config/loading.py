"""Reads a configuration from a preset or a TOML file, and writes it. The only reader of TOML."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import BaseModel, ValidationError

from components.evaluator.options import EvaluationOptions
from pipeline.config import dotted_names, renamed_keys
from pipeline.config.messages import ConfigError, explain
from pipeline.config.names import name_of_data
from pipeline.config.sections import METADATA_FILE, PipelineConfig, PipelineSection
from trainer_module import backbones, models, tasks
from trainer_module.error_text import did_you_mean
from trainer_module.locations import absolute


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("pipeline") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def presets_for(task: str) -> list[str]:
    """Names of the presets for any dataset of a task."""
    tables = {name: tomllib.loads(preset_text(name)) for name in preset_names()}
    return [
        name
        for name, table in tables.items()
        if dotted_names.get(table, "task.name") == task and dotted_names.get(table, "pipeline.name") is None
    ]


def preset_text(name: str) -> str:
    """The TOML text of a preset, including its header comment."""
    return (resources.files("pipeline") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def _warn(message: str) -> None:
    warnings.warn(message, FutureWarning, stacklevel=3)


def load(
    name_or_path: str,
    *,
    data: str | None = None,
    overrides: Sequence[str] = (),
    needs_data: bool = True,
    warn: renamed_keys.Warn = _warn,
) -> PipelineConfig:
    """Reads a preset or a TOML file.

    Args:
      name_or_path: Name of a preset, or path of a TOML file.
      data: Replaces `data.path`, and sets `data.source` to `folder`.
      overrides: `section.key=value` strings; the value is TOML, or a bare word for a string.
      needs_data: Whether the location of the images is required.
      warn: Called with one message per deprecated name; by default a `FutureWarning`.

    Raises:
      ConfigError: With all errors, one line each.
    """
    if not Path(name_or_path).expanduser().is_file():
        name_or_path = renamed_keys.renamed_preset(name_or_path, warn)
    table = _read(name_or_path)
    renamed_keys.rename(table, warn)
    settings = [_parsed(override, warn) for override in overrides]
    _drop_keys_of_another_entry(table, settings)
    for key, value in settings:
        dotted_names.put(table, key, value)
    renamed_keys.rename(table, warn)  # an override may set a table that contains a deprecated key
    renamed_keys.add_implied(table, warn)
    if data is not None:
        generated = (dotted_names.get(table, "data.source") or "folder") != "folder"
        dotted_names.section(table, "data").update(path=data, source="folder")
        if is_preset(name_or_path) and "pipeline.name" not in dict(settings):
            # Runs on different datasets are different pipelines: one must not replace the served model of the other.
            # A preset for one dataset has its name; if it generates that dataset, the name is not that of other data.
            if generated or dotted_names.get(table, "pipeline.name") is None:
                default = PipelineSection.model_fields["name"].default if generated else name_or_path.replace("_", "-")
                dotted_names.put(table, "pipeline.name", name_of_data(data, default))
    _keep_default_name(table, warn)
    try:
        return PipelineConfig.model_validate(table, context={"needs_data": needs_data})
    except ValidationError as error:
        lines = [explain(detail, table, PipelineConfig) for detail in error.errors()]
        raise ConfigError(f"{name_or_path}: " + "\n  ".join(lines)) from None


def from_toml(text: str) -> PipelineConfig:
    """Reads a complete configuration, such as one that `as_toml` has written.

    Raises:
      ConfigError: If it is not valid, for example because another version has written it.
    """
    try:
        return PipelineConfig.model_validate(tomllib.loads(text), context={"needs_data": False})
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"A stored configuration cannot be read: {error}") from None


def is_preset(name_or_path: str) -> bool:
    """Whether this is the name of a preset, and not of an existing file."""
    return name_or_path in preset_names() and not Path(name_or_path).expanduser().is_file()


def _keep_default_name(table: dict[str, Any], warn: renamed_keys.Warn) -> None:
    """Keeps the default `pipeline.name` of the previous release if that has runs."""
    root = dotted_names.get(table, "pipeline.root") or PipelineSection.model_fields["root"].default
    old = Path(str(root)).expanduser() / renamed_keys.OLD_DEFAULT_NAME
    if dotted_names.get(table, "pipeline.name") is None and (old / METADATA_FILE).is_file():
        dotted_names.put(table, "pipeline.name", old.name)
        warn(f'{old} contains runs: set `pipeline.name = "{old.name}"`, which is not the default in the next release.')


def _read(name_or_path: str) -> dict[str, Any]:
    path = Path(name_or_path).expanduser()
    if is_preset(name_or_path):
        return tomllib.loads(preset_text(name_or_path))
    if not path.is_file():
        raise ConfigError(
            f"{name_or_path!r} is neither a preset nor a file{did_you_mean(name_or_path, preset_names()) or '.'} "
            f"Presets: {', '.join(preset_names())}."
        )
    try:
        # Some editors of Windows write a byte order mark, which TOML does not allow.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _drop_keys_of_another_entry(table: dict[str, Any], settings: Sequence[tuple[str, Any]]) -> None:
    """Empties `[model]` or `[task]` if an override names another one: its keys are those of the first.

    With another task, bounds on the metrics of the first one are dropped too.
    """
    for section, default in (("model", models.DEFAULT), ("task", tasks.DEFAULT)):
        before = dotted_names.section(table, section).get("name", default)
        for key, name in settings:
            if key != f"{section}.name" or name == before:
                continue
            table[section] = {}
            if section == "task":
                evaluation = EvaluationOptions()
                for rule in {**evaluation.overall_bounds(), **evaluation.named_bounds()}:
                    dotted_names.section(table, "evaluation").pop(rule, None)


def _parsed(override: str, warn: renamed_keys.Warn) -> tuple[str, Any]:
    """Key and value of `section.key=value`; a deprecated key is replaced."""
    key, separator, text = (part.strip() for part in override.partition("="))
    if not separator or "." not in key or not all(key.split(".")):
        raise ConfigError(f"--set {override}: expected section.key=value, for example training.epochs=5.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    return renamed_keys.renamed(key, warn), value


def with_absolute_paths(config: PipelineConfig) -> PipelineConfig:
    """Returns the configuration with absolute paths, for use from another folder."""

    def make_absolute(value: str | Path | None) -> str | Path | None:
        # The same spelling as where the path is used: the cache compares the text.
        return value.expanduser().absolute() if isinstance(value, Path) else value and absolute(value)

    def paths(section: BaseModel, *keys: str) -> dict[str, Any]:
        return {key: make_absolute(getattr(section, key)) for key in keys}

    model = config.model
    weights = [key for key in type(model).model_fields if key.endswith("weights")]
    files = [key for key in weights if getattr(model, key) not in (backbones.IMAGENET, backbones.RANDOM)]
    return config.model_copy(
        update={
            "pipeline": config.pipeline.model_copy(update=paths(config.pipeline, "root", "artifacts")),
            "data": config.data.model_copy(
                update=paths(config.data, "path", "manifest", "metadata_csv", "corrections")
            ),
            "model": model.model_copy(update=paths(model, *files)),
            "serving": config.serving.model_copy(update=paths(config.serving, "base_directory")),
        }
    )


def as_toml(config: PipelineConfig) -> str:
    """The whole configuration, including defaults, as TOML that `load` reads."""
    # TOML has no null: an absent key is None.
    return tomlkit.dumps(config.model_dump(mode="json", exclude_none=True))
