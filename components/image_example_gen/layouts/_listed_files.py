"""The files that a table lists: by their paths, or by the ends of these, with or without suffix."""

from __future__ import annotations

import itertools
import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from components.image_example_gen import files
from components.image_example_gen.layouts._folder import Folder, is_image_name, split_named
from components.image_example_gen.tables import Row

_SHOWN_FILES = 3
_ROWS_PER_BATCH = 10_000


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
        known = self._described(cells)
        incomplete = [file.path for file in known.values() if _is_incomplete(file)]
        if not incomplete:
            return known
        images = self._images_named(incomplete)
        return {cell: self._completed(file, images) if _is_incomplete(file) else file for cell, file in known.items()}

    def in_batches(
        self, rows: Iterable[Row], columns: Sequence[str]
    ) -> Iterator[tuple[list[Row], dict[str, files.File]]]:
        """Finds the files of rows, a batch at a time: with one for every cell.

        Rows whose cells are not paths come last and together: all files are compared with them.

        Args:
          rows: Of the table.
          columns: Those whose cells mean files; empty cells and absent columns do not matter.
        """

        def cells_of(some: Iterable[Row]) -> set[str]:
            return {cell for row in some for column in columns if (cell := row.values.get(column))}

        rows, incomplete_rows = iter(rows), list[Row]()
        while batch := list(itertools.islice(rows, _ROWS_PER_BATCH)):
            known = self._described(cells_of(batch))
            incomplete = {cell for cell, file in known.items() if _is_incomplete(file)}
            if incomplete:
                has_paths = [incomplete.isdisjoint(cells_of([row])) for row in batch]
                incomplete_rows += itertools.compress(batch, map(operator.not_, has_paths))
                batch = list(itertools.compress(batch, has_paths))
                known = {cell: known[cell] for cell in cells_of(batch)}
            yield batch, known
        if incomplete_rows:
            yield incomplete_rows, self.find(cells_of(incomplete_rows))

    def path(self, cell: str) -> str:
        """Returns the path of a cell, as it is written."""
        return _relative(self._root, cell)

    def is_completed(self, cell: str, path: str) -> bool:
        """Whether a cell is not the path of its file, apart from backslashes."""
        return path not in (self.path(cell), _slashes(self.path(cell)))

    def _described(self, cells: Iterable[str]) -> dict[str, files.File]:
        path_of = {cell: self.path(cell) for cell in cells}
        described = {file.path: file for file in files.describe(self._root, sorted(set(path_of.values())))}
        return {cell: described[path] for cell, path in path_of.items()}

    def _completed(self, file: files.File, images: Mapping[str, list[files.File]]) -> files.File:
        path = _slashes(file.path)
        matches = [match for match in images.get(_last_stem(path), ()) if _means(path, match.path)]
        if not matches and "." in path:  # a dot may be part of a name without suffix
            matches = [match for match in images.get(path.rpartition("/")[2], ()) if _means(path, match.path)]
        if len(matches) > 1:
            matches = [match for match in matches if self._is_preferred(match.path)] or matches
        if len(matches) > 1:
            shown = ", ".join(files.readable(match.path) for match in matches[:_SHOWN_FILES])
            return file._replace(problem=f"{len(matches)} files match: {shown}", is_folder=False)
        return matches[0] if matches else file

    def _is_preferred(self, path: str) -> bool:
        first = path.partition("/")[0].lower()
        return bool(self._preferred) and first in (self._preferred, f"{self._preferred}_images")

    def _images_named(self, paths: Iterable[str]) -> dict[str, list[files.File]]:
        """Returns the images of the data folder that have the names of some paths, by name without suffix."""
        wanted = {name for path in map(_slashes, paths) for name in (_last_stem(path), path.rpartition("/")[2])}
        by_stem: dict[str, list[files.File]] = defaultdict(list)
        for file in self._folder.all_files:
            if is_image_name(file.path) and (stem := _last_stem(file.path)) in wanted:
                by_stem[stem].append(file)
        return by_stem


def _is_incomplete(file: files.File) -> bool:
    return file.problem == files.MISSING or file.is_folder


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
