"""Renamed configuration keys: an old key keeps its effect for one release and causes a deprecation warning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pipeline.config import dotted_names
from pipeline.config.messages import ConfigError

Warn = Callable[[str], None]


class ImpliedSetting(NamedTuple):
    """A setting that had no key of its own: one value of another key implied it.

    Attributes:
      key: Dotted name of the key whose value implied the setting.
      value: That value.
      implied_key: Dotted name of the setting.
      implied_value: Its value; has no effect if the setting is present.
    """

    key: str
    value: str
    implied_key: str
    implied_value: str


# Old dotted name → new dotted name. The name of a section stands for all its keys.
RENAMED: Mapping[str, str] = {
    "segmentation": "task",
    "training.label_smoothing": "task.label_smoothing",
    "training.class_weights": "task.class_weights",
    "model.head": "task.pooling",
    "model.dense_units": "task.dense_units",
    "model.head_dropout": "task.dropout",
    "kubeflow.nodes.PicturesGate": "kubeflow.nodes.DatasetGate",  # codespell:ignore
    "kubeflow.nodes.Verdict": "kubeflow.nodes.RunVerdict",
}
IMPLIED: tuple[ImpliedSetting, ...] = (ImpliedSetting("model.name", "unet", "task.name", "segmentation"),)
RENAMED_PRESETS: Mapping[str, str] = {"pictures": "images"}  # codespell:ignore pictures
OLD_DEFAULT_NAME = "pictures"  # of `pipeline.name`; codespell:ignore pictures

# Keys of this table are names of other keys: nested tables, or one quoted name with dots.
_SEARCH_SPACE = "tuner.space"
_BOTH = "`{old}` was renamed to `{new}`, and both are set. Remove `{old}`."


def renamed(key: str, warn: Warn) -> str:
    """Returns the replacement of a deprecated key, and every other key as it is.

    Args:
      key: Dotted name.
      warn: Called with a message if the key is deprecated.
    """
    prefix = f"{_SEARCH_SPACE}." if key.startswith(f"{_SEARCH_SPACE}.") else ""
    name = key.removeprefix(prefix)
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            replacement = f"{prefix}{new}{name.removeprefix(old)}"
            warn(f"The key `{key}` was renamed to `{replacement}`. The old key stops working in the next release.")
            return replacement
    return key


def rename(table: dict[str, Any], warn: Warn) -> None:
    """Moves the values of deprecated keys to the keys that replace them.

    Args:
      table: A configuration as read from TOML; changed in place.
      warn: Called with one message per deprecated key.

    Raises:
      ConfigError: If a deprecated key and its replacement are both set.
    """
    for old in RENAMED:
        for name in (old, f"{_SEARCH_SPACE}.{old}"):
            value = dotted_names.get(table, name)
            if value is None:
                continue
            dotted_names.remove(table, name)
            is_section = "." not in old and isinstance(value, dict)
            entries = {f"{name}.{key}": inner for key, inner in value.items()} if is_section else {name: value}
            for key, inner in entries.items():
                new = renamed(key, warn)
                if dotted_names.get(table, new) is not None:
                    raise ConfigError(_BOTH.format(old=key, new=new))
                dotted_names.put(table, new, inner)
    space = dotted_names.get(table, _SEARCH_SPACE)
    for name in [name for name in space if "." in name] if isinstance(space, dict) else []:
        if (new := renamed(name, warn)) != name:
            if new in space:
                raise ConfigError(_BOTH.format(old=name, new=new))
            space[new] = space.pop(name)


def add_implied(table: dict[str, Any], warn: Warn) -> None:
    """Adds the settings that values of other keys used to imply.

    Args:
      table: A configuration without deprecated keys; changed in place.
      warn: Called with one message per added setting.
    """
    for key, value, implied_key, implied_value in IMPLIED:
        if dotted_names.get(table, key) == value and dotted_names.get(table, implied_key) is None:
            dotted_names.put(table, implied_key, implied_value)
            warn(f'`{key} = "{value}"` implies `{implied_key} = "{implied_value}"` until the next release. Set both.')


def renamed_preset(name: str, warn: Warn) -> str:
    """Returns the new name of a renamed preset, and every other name as it is."""
    if name not in RENAMED_PRESETS:
        return name
    new = RENAMED_PRESETS[name]
    warn(f"The preset `{name}` was renamed to `{new}`. The old name stops working in the next release.")
    return new
