"""The files that a table lists: by their paths, or by the ends of these, with or without suffix."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from components.image_example_gen import files
from components.image_example_gen.layouts._folder import Folder, is_image_name, split_named

_SHOWN_FILES = 3


class ListedFiles:
    """Finds the files of a data folder that the cells of a table mean.

    A cell is a path relative to the data folder, with slashes or backslashes. If there is no such file, it may be the
    end of the path of exactly one image, with or without its suffix: `0001` is `train/0001.jpg`.
    """

    def __init__(self, folder: Folder, table_name: str) -> None:
        """Configures the search.

        Args:
          folder: The data folder.
          table_name: Name of the table: of several files, those in a folder of that name are meant (`train.csv`,
            `train_labels.csv`).
        """
        self._folder, self._root = folder, folder.root
        stem = table_name.rpartition(".")[0].lower()
        first, _, rest = stem.partition("_")
        self._preferred = first if rest and split_named(first) else stem

    def find(self, cells: Iterable[str]) -> dict[str, files.File]:
        """Returns the file of every cell; its problem is the reason if it cannot be used."""
        path_of = {cell: _relative(self._root, cell) for cell in cells}
        described = {file.path: file for file in files.describe(self._root, sorted(set(path_of.values())))}
        return {cell: self._completed(described[path]) for cell, path in path_of.items()}

    def completed(self, cells: Iterable[str], known: Mapping[str, files.File]) -> list[str]:
        """Returns the cells that are not the path of their file, apart from backslashes."""
        return [cell for cell in cells if known[cell].path != _slashes(_relative(self._root, cell))]

    def _completed(self, file: files.File) -> files.File:
        if file.problem != files.MISSING and not file.is_folder:
            return file
        path = _slashes(file.path)
        matches = [match for match in self._by_stem[_last_stem(path)] if _means(path, match.path)]
        if not matches and "." in path:  # a dot may be part of a name without suffix
            matches = [match for match in self._by_stem[path.rpartition("/")[2]] if _means(path, match.path)]
        if len(matches) > 1:
            matches = [match for match in matches if self._is_preferred(match.path)] or matches
        if len(matches) > 1:
            shown = ", ".join(files.readable(match.path) for match in matches[:_SHOWN_FILES])
            return file._replace(problem=f"{len(matches)} files match: {shown}", is_folder=False)
        return matches[0] if matches else file

    def _is_preferred(self, path: str) -> bool:
        first = path.partition("/")[0].lower()
        return bool(self._preferred) and first in (self._preferred, f"{self._preferred}_images")

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[files.File]]:
        by_stem: dict[str, list[files.File]] = defaultdict(list)
        for file in self._folder.all_files:
            if is_image_name(file.path):
                by_stem[_last_stem(file.path)].append(file)
        return by_stem


def _relative(root: str, path: str) -> str:
    """Returns a path relative to the data folder; one that begins with the folder's own location is shortened."""
    return path.removeprefix(root + "/").removeprefix("./")


def _slashes(path: str) -> str:
    return path.replace("\\", "/").removeprefix("./")


def _last_stem(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] if is_image_name(name) else name


def _means(given: str, path: str) -> bool:
    """Whether a path, or its end, with or without suffix, is the given one."""
    return any(each == given or each.endswith(f"/{given}") for each in (path, path.rpartition(".")[0]))


def share_of_files(listed: ListedFiles, cells: Sequence[str]) -> float:
    """Returns the share of cells that are files."""
    known = listed.find(cells)
    return sum(not file.problem and not file.is_folder for file in known.values()) / len(known) if known else 0.0
