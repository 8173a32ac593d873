"""A dataset as a SQLite file: pages list, filter and count 100,000 images without reading them.

The file is derived from the artifacts of ImageExampleGen and DataAudit, and is built again when these change. Images
stay in the files of the examples; the catalog has the position of each.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from trainer_module import features

# Part of the name of the file: a catalog of another version is built again.
FORMAT = 3
SUSPECT_ANY = "any"
_SCHEMA = """
CREATE TABLE images (id INTEGER PRIMARY KEY, split TEXT, filename TEXT, label TEXT, width INTEGER, height INTEGER,
  format TEXT, bytes INTEGER, file TEXT, position INTEGER);
CREATE TABLE classes (class TEXT, image INTEGER);
CREATE TABLE slices (name TEXT, value TEXT, image INTEGER);
CREATE TABLE numbers (name TEXT, image INTEGER, value REAL);
CREATE TABLE suspects (image INTEGER, filename TEXT, label TEXT, reason TEXT, score REAL, proposed TEXT);
CREATE TABLE quarantine (id INTEGER PRIMARY KEY, path TEXT, reason TEXT);
CREATE TABLE duplicates (number INTEGER, kind TEXT, leaks INTEGER, path TEXT, split TEXT, image INTEGER);
CREATE TABLE summaries (name TEXT PRIMARY KEY, content TEXT);
"""
_INDEXES = """
CREATE INDEX images_by_split ON images (split);
CREATE INDEX classes_by_name ON classes (class, image);
CREATE INDEX classes_by_image ON classes (image);
CREATE INDEX slices_by_value ON slices (name, value, image);
CREATE INDEX slices_by_image ON slices (image);
CREATE INDEX numbers_by_image ON numbers (name, image);
CREATE INDEX suspects_by_image ON suspects (image);
CREATE INDEX suspects_by_reason ON suspects (reason, score);
CREATE INDEX duplicates_by_image ON duplicates (image);
CREATE INDEX duplicates_by_number ON duplicates (number);
"""


class ImageRow(NamedTuple):
    """One image.

    Attributes:
      id: Number in the catalog, from 1.
      split: Its split.
      filename: Relative to the data folder.
      label: Its class names, joined with `|`; empty without any.
      width: Pixels.
      height: Pixels.
      format: `JPEG`, `PNG` or `GIF`.
      bytes: Size of the file.
      file: The file of examples that contains it.
      position: Where its record begins there.
    """

    id: int
    split: str
    filename: str
    label: str
    width: int
    height: int
    format: str
    bytes: int
    file: str
    position: int


class SuspectRow(NamedTuple):
    """A reason to review an image; `image` is None if the image is not in the catalog."""

    image: int | None
    filename: str
    label: str
    reason: str
    score: float
    proposed: str


class DuplicateRow(NamedTuple):
    """One image of a group of duplicates."""

    number: int
    kind: str
    leaks: int
    path: str
    split: str
    image: int | None


class QuarantinedRow(NamedTuple):
    """A file that is not used."""

    id: int
    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ImageFilter:
    """Filter of the listed images; an empty value does not restrict them.

    Attributes:
      split: Their split.
      class_name: One of their classes.
      slice_name: Name of a slice, with `slice_value`.
      slice_value: Its value.
      suspect: A reason of DataAudit, or `any`.
      format: Format of the file.
      text: Part of the file name.
      sort: A feature with numbers, by which the list is sorted: the smallest first, or with `-` the largest first.
    """

    split: str = ""
    class_name: str = ""
    slice_name: str = ""
    slice_value: str = ""
    suspect: str = ""
    format: str = ""
    text: str = ""
    sort: str = ""

    def where(self) -> tuple[str, list[Any]]:
        """Returns the condition of a query, and its values."""
        conditions, values = list[str](), list[Any]()
        if self.split:
            conditions.append("split = ?")
            values.append(self.split)
        if self.class_name:
            conditions.append("id IN (SELECT image FROM classes WHERE class = ?)")
            values.append(self.class_name)
        if self.slice_name:
            conditions.append("id IN (SELECT image FROM slices WHERE name = ? AND value = ?)")
            values += [self.slice_name, self.slice_value]
        if self.suspect == SUSPECT_ANY:
            conditions.append("id IN (SELECT image FROM suspects)")
        elif self.suspect:
            conditions.append("id IN (SELECT image FROM suspects WHERE reason = ?)")
            values.append(self.suspect)
        if self.format:
            conditions.append("format = ?")
            values.append(self.format)
        if self.text:
            conditions.append("filename LIKE ? ESCAPE '\\'")
            values.append(f"%{_escaped(self.text)}%")
        return (" WHERE " + " AND ".join(conditions) if conditions else ""), values


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


class Catalog:
    """Reads a catalog; threads may share it."""

    def __init__(self, path: Path) -> None:
        """Takes the file, which is not changed any more."""
        self.path = path

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            yield connection
        finally:
            connection.close()

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Runs a query."""
        with self._open() as connection:
            return connection.execute(sql, values).fetchall()

    def count(self, chosen: ImageFilter | None = None) -> int:
        """Counts images."""
        where, values = (chosen or ImageFilter()).where()
        return int(self.query(f"SELECT COUNT(*) FROM images{where}", values)[0][0])

    def images(self, chosen: ImageFilter, offset: int, limit: int) -> list[ImageRow]:
        """Returns a part of the list, sorted as chosen; otherwise suspects by their score, others by their number."""
        where, values = chosen.where()
        order = "id"
        if chosen.sort:
            largest = "MAX(value)" if chosen.sort.startswith("-") else "-MIN(value)"
            order = f"(SELECT {largest} FROM numbers WHERE name = ? AND image = id) DESC, id"
            values.append(chosen.sort.removeprefix("-"))
        elif chosen.suspect:
            own = "" if chosen.suspect == SUSPECT_ANY else "AND reason = ?"
            order = f"(SELECT MAX(score) FROM suspects WHERE image = id {own}) DESC, id"
            values += [] if chosen.suspect == SUSPECT_ANY else [chosen.suspect]
        rows = self.query(f"SELECT * FROM images{where} ORDER BY {order} LIMIT ? OFFSET ?", [*values, limit, offset])
        return [ImageRow(*row) for row in rows]

    def image(self, number: int) -> ImageRow | None:
        """Returns one image; None if there is none of this number."""
        rows = self.query("SELECT * FROM images WHERE id = ?", [number])
        return ImageRow(*rows[0]) if rows else None

    def named(self, filenames: Sequence[str]) -> list[ImageRow]:
        """Returns images by their file names, in the order of the dataset."""
        wanted = set(filenames)
        return [row for row in self.all_images() if row.filename in wanted]

    def chosen(self, numbers: Sequence[int]) -> list[ImageRow]:
        """Returns images by their numbers, in this order; unknown numbers are skipped."""
        marks = ",".join("?" * len(numbers))
        rows = {row[0]: ImageRow(*row) for row in self.query(f"SELECT * FROM images WHERE id IN ({marks})", numbers)}
        return [rows[number] for number in numbers if number in rows]

    def all_images(self) -> Iterator[ImageRow]:
        """Iterates over all images in the order of their numbers."""
        with self._open() as connection:
            for row in connection.execute("SELECT * FROM images ORDER BY id"):
                yield ImageRow(*row)

    def suspects(self, image: int) -> list[SuspectRow]:
        """Returns the reasons to review an image, the most suspicious first."""
        rows = self.query("SELECT * FROM suspects WHERE image = ? ORDER BY score DESC", [image])
        return [SuspectRow(*row) for row in rows]

    def all_suspects(self) -> list[SuspectRow]:
        """Returns all suspects, the most suspicious first."""
        return [SuspectRow(*row) for row in self.query("SELECT * FROM suspects ORDER BY score DESC, rowid")]

    def number_names(self) -> list[str]:
        """Returns the features whose numbers the catalog has."""
        return [str(name) for (name,) in self.query("SELECT DISTINCT name FROM numbers ORDER BY name")]

    def slices_of(self, image: int) -> list[tuple[str, str]]:
        """Returns name and value of the slices of an image."""
        rows = self.query("SELECT name, value FROM slices WHERE image = ? ORDER BY name", [image])
        return [(str(name), str(value)) for name, value in rows]

    def duplicates_of(self, image: int) -> list[DuplicateRow]:
        """Returns the other images of the groups that contain an image."""
        rows = self.query(
            "SELECT * FROM duplicates WHERE number IN (SELECT number FROM duplicates WHERE image = ?) "
            "AND image IS NOT ? ORDER BY number",
            [image, image],
        )
        return [DuplicateRow(*row) for row in rows]

    def duplicate_groups(self, offset: int, limit: int) -> list[list[DuplicateRow]]:
        """Returns groups of duplicates, those in several splits first."""
        numbers = self.query(
            "SELECT number FROM duplicates GROUP BY number ORDER BY MAX(leaks) DESC, number LIMIT ? OFFSET ?",
            [limit, offset],
        )
        return [
            [DuplicateRow(*row) for row in self.query("SELECT * FROM duplicates WHERE number = ?", [number])]
            for (number,) in numbers
        ]

    def quarantine(self, offset: int, limit: int) -> list[QuarantinedRow]:
        """Returns quarantined files by path."""
        rows = self.query("SELECT * FROM quarantine ORDER BY id LIMIT ? OFFSET ?", [limit, offset])
        return [QuarantinedRow(*row) for row in rows]

    def quarantined(self, number: int) -> QuarantinedRow | None:
        """Returns one quarantined file; None if there is none of this number."""
        rows = self.query("SELECT * FROM quarantine WHERE id = ?", [number])
        return QuarantinedRow(*rows[0]) if rows else None

    def by_class_and_split(self) -> dict[str, dict[str, int]]:
        """Counts images: class → split → number, the rarest class first."""
        return dict(self._summary("classes"))

    def by_slice(self) -> dict[str, dict[str, int]]:
        """Counts images: slice → value → number."""
        return dict(self._summary("slices"))

    def by_reason(self) -> dict[str, int]:
        """Counts suspects by reason, the most frequent first."""
        return dict(self._summary("reasons"))

    def sizes(self) -> list[dict[str, Any]]:
        """Returns per split: number of images, smallest, median and largest width and height, and formats."""
        return list(self._summary("sizes"))

    def _summary(self, name: str) -> Any:
        return json.loads(self.query("SELECT content FROM summaries WHERE name = ?", [name])[0][0])


class CatalogWriter:
    """Writes a catalog; the file appears when it is complete."""

    def __init__(self, path: Path) -> None:
        """Takes the path of the complete file."""
        self._path, self._temporary = path, path.with_suffix(".tmp")

    def __enter__(self) -> CatalogWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.unlink(missing_ok=True)
        self._connection = sqlite3.connect(self._temporary, isolation_level=None, check_same_thread=False)
        # A file that is lost in a crash is built again.
        self._connection.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_SCHEMA}")
        self._connection.execute("BEGIN")
        self._number = 0
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._connection.close()
            self._temporary.unlink(missing_ok=True)
            return
        self._connection.execute("COMMIT")
        self._connection.executescript(f"{_INDEXES} ANALYZE;")
        summaries = [(name, json.dumps(count(self._query))) for name, count in _SUMMARIES.items()]
        self._connection.executemany("INSERT INTO summaries VALUES (?, ?)", summaries)
        self._connection.close()
        os.replace(self._temporary, self._path)

    def _query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def add_image(
        self,
        row: ImageRow,
        classes: Sequence[str],
        slices: Mapping[str, str],
        numbers: Mapping[str, Sequence[float]] = MappingProxyType({}),
    ) -> None:
        """Adds an image; its number is the next one."""
        self._number += 1
        insert = self._connection.executemany
        insert(f"INSERT INTO images VALUES ({','.join('?' * len(row))})", [(self._number, *row[1:])])
        insert("INSERT INTO classes VALUES (?, ?)", [(name, self._number) for name in classes])
        insert("INSERT INTO slices VALUES (?, ?, ?)", [(name, value, self._number) for name, value in slices.items()])
        rows = [(name, self._number, value) for name, values in numbers.items() for value in values]
        insert("INSERT INTO numbers VALUES (?, ?, ?)", rows)

    def add_quarantine(self, rows: Sequence[tuple[str, str]]) -> None:
        """Adds quarantined files: path and reason."""
        self._connection.executemany("INSERT INTO quarantine (path, reason) VALUES (?, ?)", rows)

    def finish(
        self,
        suspects: Sequence[tuple[str, str, str, float, str]],
        duplicates: Sequence[tuple[int, str, bool, str, str]],
    ) -> None:
        """Adds what refers to images by their file names: call it after all images.

        Args:
          suspects: File name, label, reason, score and proposed label.
          duplicates: Number of the group, kind, whether the group is in several splits, path and split.
        """
        connection = self._connection
        connection.execute("CREATE INDEX temporary_names ON images (filename)")
        find = "(SELECT id FROM images WHERE filename = ?)"
        connection.executemany(
            f"INSERT INTO suspects VALUES ({find}, ?, ?, ?, ?, ?)", [(row[0], *row) for row in suspects]
        )
        connection.executemany(
            f"INSERT INTO duplicates VALUES (?, ?, ?, ?, ?, {find})", [(*row, row[3]) for row in duplicates]
        )
        connection.execute("DROP INDEX temporary_names")


# === Summaries, which take seconds for 100,000 images ===

Query = Callable[..., list[tuple[Any, ...]]]


def _classes(query: Query) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for name, split, number in query(
        "SELECT class, split, COUNT(*) FROM classes JOIN images ON images.id = classes.image GROUP BY class, split"
    ):
        table.setdefault(name, {})[split] = number
    return dict(sorted(table.items(), key=lambda item: (sum(item[1].values()), item[0])))


def _slices(query: Query) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for name, value, number in query("SELECT name, value, COUNT(*) FROM slices GROUP BY name, value"):
        table.setdefault(name, {})[value] = number
    return table


def _reasons(query: Query) -> dict[str, int]:
    return dict(query("SELECT reason, COUNT(*) FROM suspects GROUP BY reason ORDER BY COUNT(*) DESC, reason"))


def _sizes(query: Query) -> list[dict[str, Any]]:
    sizes = []
    for split, number in query("SELECT split, COUNT(*) FROM images GROUP BY split"):
        row: dict[str, Any] = {"split": split, "images": number}
        for side in ("width", "height"):
            low, high = query(f"SELECT MIN({side}), MAX({side}) FROM images WHERE split = ?", [split])[0]
            middle = query(
                f"SELECT {side} FROM images WHERE split = ? ORDER BY {side} LIMIT 1 OFFSET ?", [split, number // 2]
            )[0][0]
            row[side] = (low, middle, high)
        formats = query("SELECT format, COUNT(*) FROM images WHERE split = ? GROUP BY format", [split])
        sizes.append(row | {"formats": dict(formats)})
    order = {split: index for index, split in enumerate(features.SPLITS)}
    return sorted(sizes, key=lambda row: (order.get(row["split"], len(order)), row["split"]))


_SUMMARIES: dict[str, Callable[[Query], Any]] = {
    "classes": _classes,
    "slices": _slices,
    "reasons": _reasons,
    "sizes": _sizes,
}
