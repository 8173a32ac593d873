"""Messages for invalid configurations."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel

from trainer_module import models, tasks
from trainer_module.error_text import did_you_mean


class ConfigError(Exception):
    """The configuration, or the dataset that it names, cannot be used; the message says what to change."""


def explain(detail: Any, table: dict[str, Any], config: type[BaseModel]) -> str:
    """Describes the error of one key in one line.

    Args:
      detail: One error of pydantic.
      table: The configuration as read from TOML.
      config: The class of the whole configuration.
    """
    location = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        *sections, key = location
        known = _known_keys(sections, table, config)
        where = f" in [{'.'.join(sections)}]" if sections else ""
        suggestion = did_you_mean(key, known) or f". Known keys: {', '.join(known)}."
        return f"Unknown key `{key}`{where}{suggestion}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        given = ""
    else:
        given = f" (given: {detail['input']!r})"
    return f"{'.'.join(location)}: {message}{given}" if location else f"{message}"


def _known_keys(sections: typing.Sequence[str], table: dict[str, Any], config: type[BaseModel]) -> list[str]:
    model: type[BaseModel] | None = config
    names = iter(sections)
    for name in names:
        if model is None:
            return []
        if name == "model" and model is config:
            model = models.get(table["model"].get("name", models.DEFAULT)).options
            continue
        if name == "task" and model is config:
            model = tasks.get(table["task"].get("name", tasks.DEFAULT)).options
            continue
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        if typing.get_origin(annotation) is dict:
            next(names, None)  # a key that the user chooses
            annotation = typing.get_args(annotation)[1]
        elif typing.get_origin(annotation) is tuple:
            next(names, None)  # an index
            annotation = typing.get_args(annotation)[0]
        model = _model_in(annotation)
    return list(model.model_fields) if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType):
        return next((model for model in map(_model_in, typing.get_args(annotation)) if model), None)
    return None
