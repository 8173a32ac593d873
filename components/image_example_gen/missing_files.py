"""Explains paths of a table that do not exist: the nearest existing file, and what to change."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from components.image_example_gen import files
from trainer_module.locations import is_remote, join

# Files of the data folder that a missing path is compared with, and those of them with a similar name.
_MOST_FILES = 20_000
_MOST_SIMILAR = 2_000
_SHOWN_PATHS = 2


class Nearest(NamedTuple):
    """The existing file that is meant by a path.

    Attributes:
      path: Relative to the data folder.
      advice: What to change in the table or in the configuration, as a clause; empty if only the names are similar.
    """

    path: str
    advice: str


def describe(root: str, missing: Sequence[str]) -> str:
    """Describes paths that do not exist: two of them, the nearest file and the fix.

    Args:
      root: The data folder.
      missing: Paths that are relative to it, at least one.
    """
    shown = " and ".join(f"`{files.readable(path)}`" for path in missing[:_SHOWN_PATHS])
    match = nearest(root, missing[0])
    if match is None:
        return f"such as {shown}, and {root} has no file with a similar name. Set data.path to the folder of the files."
    advice = match.advice or f"paths start from {root}"
    return f"such as {shown}. Did you mean `{files.readable(match.path)}`? Then {advice}."


def nearest(root: str, path: str) -> Nearest | None:
    """Finds the existing file that a path means: written differently, elsewhere in the folder, or similar."""
    existing = _existing(root)
    by_folded = {name.casefold(): name for name in reversed(existing)}
    given = path.replace("\\", "/")
    slashes = given.strip("/")
    if slashes != path and slashes in by_folded.values():
        return Nearest(slashes, "write the paths with forward slashes, relative to the data folder")
    if same := by_folded.get(slashes.casefold()):
        return Nearest(same, "write the names in the same case as the files")
    stem = _without_suffix(slashes)
    same_stem = [name for name in existing if _without_suffix(name) == stem]
    if same_stem:
        verb = "add" if stem == slashes else "write"
        return Nearest(same_stem[0], f"{verb} the suffix of the files: `{_suffix(same_stem[0])}`")
    return _elsewhere(root, given, existing) or _similar(slashes, existing)


def _elsewhere(root: str, path: str, existing: Sequence[str]) -> Nearest | None:
    """Finds a file with the same end of its path, with or without suffix; an absolute path begins with `/`."""
    for plain in (str, _without_suffix):
        wanted = plain(path)
        for name in existing:
            if plain(name).endswith(f"/{wanted}"):
                folder = plain(name)[: -len(wanted) - 1]
                return Nearest(name, f"begin the paths with `{folder}/`, or set data.path to {join(root, folder)}")
            if wanted.endswith(f"/{plain(name)}"):
                return Nearest(name, f"remove `{wanted[: -len(plain(name))]}` from the paths, which start from {root}")
    file_name = path.rpartition("/")[2]
    for name in existing:
        if name.rpartition("/")[2] == file_name:
            return Nearest(name, f"write the paths as they are in {root}")
    return None


def _similar(path: str, existing: Sequence[str]) -> Nearest | None:
    close = difflib.get_close_matches(path, existing[:_MOST_SIMILAR], n=1, cutoff=0.6)
    return Nearest(close[0], "") if close else None


def _existing(root: str) -> list[str]:
    """Lists files of the data folder; of a remote one only those in it and in its folders."""

    def remote() -> Iterable[files.File]:
        for file in files.listing(root):
            yield from files.listing(root, file.path) if file.is_folder else (file,)

    listed = remote() if is_remote(root) else files.walk(root, "")
    return [file.path for file in itertools.islice(listed, _MOST_FILES) if not file.is_folder]


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix


def _without_suffix(path: str) -> str:
    return path.removesuffix(_suffix(path))
