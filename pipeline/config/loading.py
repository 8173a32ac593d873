"""Reads a configuration from a preset or a TOML file, and writes it. The only reader of TOML."""

from __future__ import annotations

import re
import tomllib
import typing
from importlib import resources
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import BaseModel, ValidationError

from components.evaluator.options import EvaluationOptions
from pipeline.config.messages import ConfigError, explain
from pipeline.config.sections import PipelineConfig
from trainer_module import backbones, models
from trainer_module.error_text import did_you_mean
from trainer_module.locations import absolute


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("pipeline") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """A preset's TOML, header comment included."""
    return (resources.files("pipeline") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def load(
    name_or_path: str, *, data: str | None = None, overrides: typing.Sequence[str] = (), needs_data: bool = True
) -> PipelineConfig:
    """Reads a preset or a TOML file.

    Args:
      name_or_path: A preset's name, or the path of a TOML file.
      data: Replaces `data.path` (and makes `data.source` a folder).
      overrides: `section.key=value` strings; the value is TOML, or a bare word for a string.
      needs_data: Whether it is a mistake to say nothing of where the pictures are.

    Raises:
      ConfigError: With everything that is wrong, one line each.
    """
    table = _read(name_or_path)
    _forget_another_model(table, overrides)
    for override in overrides:
        _apply(table, override)
    if data is not None:
        _section(table, "data").update(path=data, source="folder")
        if is_preset(name_or_path) and not any(o.strip().startswith("pipeline.name") for o in overrides):
            # Runs on different pictures are different pipelines: one must not replace the other's served model.
            _section(table, "pipeline")["name"] = _slug(data)
    try:
        return PipelineConfig.model_validate(table, context={"needs_data": needs_data})
    except ValidationError as error:
        lines = [explain(detail, table, PipelineConfig) for detail in error.errors()]
        raise ConfigError(f"{name_or_path}: " + "\n  ".join(lines)) from None


def is_preset(name_or_path: str) -> bool:
    """Whether a preset is meant, and not a file that has the same name."""
    return name_or_path in preset_names() and not Path(name_or_path).expanduser().is_file()


def _slug(data: str) -> str:
    """A pipeline's name from where its pictures are: small letters, digits and hyphens.

    The folder's name; a manifest's, with the folder's before it; of spans the folder that they lie in and what stands
    before the placeholder. Different data should not share a run's folder.
    """
    *_, above, last = ["", *absolute(data.partition("{")[0]).rstrip("/").split("/")]
    if data.endswith((".csv", ".jsonl")):
        stem = last.rpartition(".")[0]
        last = above if stem == "manifest" else f"{above}-{stem}"
    elif "{" in data and not data.partition("{")[0].endswith("/"):
        last = f"{above}-{last}"
    words = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
    return words[:62] or "pictures"


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
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _section(table: dict[str, Any], name: str) -> dict[str, Any]:
    section = table.setdefault(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"`{name}` must be a section, not a value.")
    return section


def _forget_another_model(table: dict[str, Any], overrides: typing.Sequence[str]) -> None:
    """Empties `[model]` where an override names another model: what it says are the keys of the first.

    Of a model with another task nothing that is demanded of the first one's figures stays either.
    """
    model = _section(table, "model")
    before = model.get("name", models.DEFAULT)
    for override in overrides:
        key, _, text = override.partition("=")
        name = text.strip().strip("\"'")
        if key.strip() == "model.name" and name != before:
            table["model"] = {}
            known = {before, name} <= set(models.names())
            if known and models.get(before).Options.task != models.get(name).Options.task:
                said = EvaluationOptions()
                for rule in {**said.overall_rules(), **said.bound_rules()}:
                    _section(table, "evaluation").pop(rule, None)


def _apply(table: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not separator or not sections or not all([*sections, last]):
        raise ConfigError(f"--set {override}: expected section.key=value, for example training.epochs=5.")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for section in sections:
        table = _section(table, section)
    table[last] = value


def with_absolute_paths(config: PipelineConfig) -> PipelineConfig:
    """The same configuration for whoever reads it from another folder."""

    def place(value: str | Path | None) -> str | Path | None:
        # As it is spelt wherever it is used: another spelling is another value to the cache.
        return value.expanduser().absolute() if isinstance(value, Path) else value and absolute(value)

    def of(section: BaseModel, *keys: str) -> dict[str, Any]:
        return {key: place(getattr(section, key)) for key in keys}

    model = config.model
    weights = [key for key in type(model).model_fields if key.endswith("weights")]
    files = [key for key in weights if getattr(model, key) not in (backbones.IMAGENET, backbones.RANDOM)]
    return config.model_copy(
        update={
            "pipeline": config.pipeline.model_copy(update=of(config.pipeline, "root", "artifacts")),
            "data": config.data.model_copy(update=of(config.data, "path", "manifest", "metadata_csv")),
            "model": model.model_copy(update=of(model, *files)),
            "serving": config.serving.model_copy(update=of(config.serving, "base_directory")),
        }
    )


def as_toml(config: PipelineConfig) -> str:
    """The whole configuration, defaults included, as a file that `load` reads."""
    # TOML has no null: what is absent is None again.
    return tomlkit.dumps(config.model_dump(mode="json", exclude_none=True))
