"""The files that a table lists: by their paths, or by the ends of these, with or without suffix."""

from __future__ import annotations

import functools
import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from components.image_example_gen import files
from components.image_example_gen.exchange import IMAGES_PER_PARTITION
from components.image_example_gen.external_sort import grouped_by_key
from components.image_example_gen.layouts._folder import Folder, is_image_name, split_named
from components.image_example_gen.spooled_items import SpooledItems
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
        images = _by_end(filter(_is_image, self._folder.all_files), set(map(_slashes, incomplete)))
        return {cell: self._completed(file, images) if _is_incomplete(file) else file for cell, file in known.items()}

    def in_batches(
        self, rows: Iterable[Row], columns: Sequence[str]
    ) -> Iterator[tuple[list[Row], dict[str, files.File]]]:
        """Finds the files of rows, a batch at a time: with one for every cell.

        Rows whose cells are not paths come last: all files are compared with them.

        Args:
          rows: Of the table.
          columns: Those whose cells mean files; empty cells and absent columns do not matter.
        """
        cells_of = functools.partial(_cells_of, columns)
        incomplete_rows = SpooledItems[Row]()
        yield from self.complete_in_batches(rows, columns, incomplete_rows)
        few = list(itertools.islice(incomplete_rows, IMAGES_PER_PARTITION + 1))
        if len(few) > IMAGES_PER_PARTITION:
            yield from self._many_incomplete(incomplete_rows, cells_of)
        elif few:
            yield few, self.find(cells_of(few))

    def complete_in_batches(
        self, rows: Iterable[Row], columns: Sequence[str], incomplete_rows: SpooledItems[Row]
    ) -> Iterator[tuple[list[Row], dict[str, files.File]]]:
        """Finds the files of rows whose cells are paths, a batch at a time; adds the others to `incomplete_rows`."""
        rows, cells_of = iter(rows), functools.partial(_cells_of, columns)
        while batch := list(itertools.islice(rows, _ROWS_PER_BATCH)):
            known = self._described(cells_of(batch))
            incomplete = {cell for cell, file in known.items() if _is_incomplete(file)}
            if incomplete:
                has_paths = [incomplete.isdisjoint(cells_of([row])) for row in batch]
                incomplete_rows.extend(itertools.compress(batch, map(operator.not_, has_paths)))
                batch = list(itertools.compress(batch, has_paths))
                known = {cell: known[cell] for cell in cells_of(batch)}
            yield batch, known

    def _many_incomplete(
        self, rows: Iterable[Row], cells_of: Callable[[Iterable[Row]], set[str]]
    ) -> Iterator[tuple[list[Row], dict[str, files.File]]]:
        """Finds the files of rows as `find`, but outside of memory: joins cells and images by their last names."""

        def cells() -> Iterator[tuple[str, tuple[int, str, files.File]]]:
            remaining, numbers = iter(rows), itertools.count()
            while batch := list(itertools.islice(remaining, _ROWS_PER_BATCH)):
                known = self._described(cells_of(batch))
                for row, number in zip(batch, numbers, strict=False):
                    for cell in cells_of([row]):
                        yield _bare_name(_slashes(known[cell].path)), (number, cell, known[cell])

        def completed() -> Iterator[tuple[str, tuple[str, files.File]]]:
            images = ((_bare_name(file.path), file) for file in filter(_is_image, self._folder.all_files))
            items: Iterable[tuple[str, files.File | tuple[int, str, files.File]]] = itertools.chain(images, cells())
            for _, same in grouped_by_key(items):
                own_images = [item for item in same if isinstance(item, files.File)]
                own_cells = [item for item in same if not isinstance(item, files.File)]
                by_end = _by_end(own_images, {_slashes(file.path) for _, _, file in own_cells})
                for number, cell, file in own_cells:
                    whole = self._completed(file, by_end) if _is_incomplete(file) else file
                    yield f"{number:012}", (cell, whole)

        joined = zip(rows, grouped_by_key(completed()), strict=True)
        while batch := list(itertools.islice(joined, _ROWS_PER_BATCH)):
            yield [row for row, _ in batch], dict(pair for _, (_, pairs) in batch for pair in pairs)

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

    def _completed(self, file: files.File, by_end: Mapping[str, Sequence[files.File]]) -> files.File:
        path = _slashes(file.path)
        images = by_end.get(path, ())
        matches = [match for match in images if _last_stem(match.path) == _last_stem(path)]
        matches = matches or list(images)  # a dot may be part of a name without suffix
        if len(matches) > 1:
            matches = [match for match in matches if self._is_preferred(match.path)] or matches
        if len(matches) > 1:
            shown = ", ".join(files.readable(match.path) for match in matches[:_SHOWN_FILES])
            return file._replace(problem=f"{len(matches)} files match: {shown}", is_folder=False)
        return matches[0] if matches else file

    def _is_preferred(self, path: str) -> bool:
        first = path.partition("/")[0].lower()
        return bool(self._preferred) and first in (self._preferred, f"{self._preferred}_images")


def _cells_of(columns: Sequence[str], rows: Iterable[Row]) -> set[str]:
    return {cell for row in rows for column in columns if (cell := row.values.get(column))}


def _is_image(file: files.File) -> bool:
    return is_image_name(file.path)


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


def _bare_name(path: str) -> str:
    """Returns the last name of a path without any suffix of images: it is that of every path that the path may mean."""
    name = path.rpartition("/")[2]
    while is_image_name(name):
        name = name.rpartition(".")[0]
    return name


def _by_end(images: Iterable[files.File], ends: Collection[str]) -> dict[str, list[files.File]]:
    """Groups images by the ends of their paths, with and without suffix, that are among those given."""
    last_names = {end.rpartition("/")[2] for end in ends}
    by_end: dict[str, list[files.File]] = defaultdict(list)
    for file in images:
        for path in (file.path, file.path.rpartition(".")[0]):
            if path.rpartition("/")[2] not in last_names:
                continue
            while path:
                if path in ends:
                    by_end[path].append(file)
                path = path.partition("/")[2]
    return by_end


def share_of_files(listed: ListedFiles, cells: Sequence[str]) -> float:
    """Returns the share of cells that are files."""
    known = listed.find(cells)
    return sum(not file.problem and not file.is_folder for file in known.values()) / len(known) if known else 0.0
