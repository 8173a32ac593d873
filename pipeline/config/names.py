"""The name of a pipeline from the location of its dataset."""

from __future__ import annotations

import re
from pathlib import Path

from components.image_example_gen.tables import SUFFIXES
from trainer_module.locations import absolute, is_remote

_MOST_CHARACTERS = 62

# Names of folders that say nothing about the dataset in them: many datasets are in a folder of each of these names.
GENERIC_NAMES = frozenset(
    """
    archive archives class classes dataset datasets data desktop dir documents download downloads extracted files folder
    home image images img imgs input inputs jpegimages jpg jpgs mnt media new opt original output photo photos pic pics
    png pngs private processed public raw root samples shared src srv storage temp test testing tmp train training
    train-images unpacked unzipped upload uploads usr val valid validation validate var volumes work workspace
    eval evaluation dev
    """.split()  # codespell:ignore
)
# `archive (1)`, as browsers number downloads.
_NUMBERED = re.compile(r"\s*\(\d+\)$")


def name_of_data(data: str, default: str) -> str:
    """Derives the name of a pipeline from the path of its dataset: lower-case letters, digits and hyphens.

    The name of the folder; for a manifest, preceded by the folder's; for spans, the folder that contains them and the
    text before the placeholder. A generic name such as `data` or `train` is replaced by that of the nearest folder
    above with another name. Different datasets should not share the folder of a run.

    Args:
      data: As `data.path`.
      default: The name if the path has none: all folders are generic, or have no letter or digit.
    """
    *folders, last = absolute(data.partition("{")[0]).rstrip("/").split("/")
    folders = folders[2:] if is_remote(data) else _below_home(folders)
    if data.endswith(SUFFIXES):
        stem = last.rpartition(".")[0]
        above = _nearest(folders)
        last = (above or stem) if stem == "manifest" or _is_generic(stem) else f"{above}-{stem}"
    elif "{" in data and not data.partition("{")[0].endswith("/"):
        last = f"{folders[-1] if folders else ''}-{last}"
    return _slug(_nearest([*folders, last])) or default


def _nearest(folders: list[str]) -> str:
    """Returns the last name that is not generic; empty if there is none."""
    return next((name for name in reversed(folders) if not _is_generic(name)), "")


def _is_generic(name: str) -> bool:
    return not name or _slug(_NUMBERED.sub("", name)) in GENERIC_NAMES


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MOST_CHARACTERS].strip("-")


def _below_home(folders: list[str]) -> list[str]:
    """Removes the home folder and those above it: the name of a user is not that of a dataset."""
    home = str(Path.home()).rstrip("/").split("/")
    return folders[len(home) :] if folders[: len(home)] == home else folders
