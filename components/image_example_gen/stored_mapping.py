"""Values by key, outside of memory if they are many: in a table of SQLite, of which a few pages are in memory."""

from __future__ import annotations

import errno
import itertools
import pickle
import sqlite3
import weakref
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from typing import TypeVar

from components.image_example_gen.exchange import IMAGES_PER_PARTITION
from components.image_example_gen.stored_entries import TemporaryFolder
from trainer_module.locations import join

_Value = TypeVar("_Value")
# Of a file that is deleted after use, nothing has to survive a crash. Mapped pages would count as memory.
_SETTINGS = ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", "mmap_size = 0")
# The rows are in the order of the first item of every key, as those of a dictionary are.
_CREATE = "CREATE TABLE items (number INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)"
_INSERT = "INSERT INTO items (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def collect_mapping(items: Iterable[tuple[str, _Value]]) -> Mapping[str, _Value]:
    """Returns what `dict` returns; if the keys are many, in a file that is deleted together with the mapping.

    Args:
      items: Keys, and values that can be pickled. The order of many keys should have long sorted parts, since a key
        beside the one before is inserted faster.
    """
    iterator, first = iter(items), dict[str, _Value]()
    for key, value in iterator:
        first[key] = value
        if len(first) > IMAGES_PER_PARTITION:
            return _StoredMapping(itertools.chain(_popped(first), iterator))
    return first


def _popped(items: dict[str, _Value]) -> Iterator[tuple[str, _Value]]:
    yield from items.items()
    items.clear()


class _StoredMapping(Mapping[str, _Value]):
    """The values of a table."""

    def __init__(self, items: Iterable[tuple[str, _Value]]) -> None:
        self._folder = TemporaryFolder.local()
        rows = ((_encoded(key), pickle.dumps(value, pickle.HIGHEST_PROTOCOL)) for key, value in items)
        # Whoever deletes the mapping last may be another thread.
        self._database = sqlite3.connect(join(self._folder.location, "mapping"), check_same_thread=False)
        weakref.finalize(self, self._database.close)
        try:
            for setting in _SETTINGS:
                self._database.execute(f"PRAGMA {setting}")
            self._database.execute(_CREATE)
            self._database.executemany(_INSERT, rows)
        except sqlite3.OperationalError as error:  # such as a full disk
            raise OSError(errno.EIO, str(error), self._folder.location) from None
        self._length = int(self._database.execute("SELECT COUNT(*) FROM items").fetchone()[0])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: str) -> _Value:
        row = self._database.execute("SELECT value FROM items WHERE key = ?", (_encoded(key),)).fetchone()
        if row is None:
            raise KeyError(key)
        value: _Value = pickle.loads(row[0])  # this process has written it
        return value

    def __iter__(self) -> Iterator[str]:
        for (key,) in self._rows("key"):
            yield _decoded(key)

    def items(self) -> ItemsView[str, _Value]:
        return _Items(self)

    def read(self) -> Iterator[tuple[str, _Value]]:
        """Yields keys and values."""
        for key, value in self._rows("key, value"):
            yield _decoded(key), pickle.loads(value)

    def _rows(self, columns: str) -> Iterator[tuple[bytes, ...]]:
        yield from self._database.execute(f"SELECT {columns} FROM items ORDER BY number")


class _Items(ItemsView[str, _Value]):
    """Keys and values, read row by row instead of searched key by key."""

    _mapping: _StoredMapping[_Value]

    def __iter__(self) -> Iterator[tuple[str, _Value]]:
        return self._mapping.read()


def _encoded(key: str) -> bytes:
    """Encodes any text, also with halves of surrogate pairs."""
    return key.encode(errors="surrogatepass")


def _decoded(key: bytes) -> str:
    return key.decode(errors="surrogatepass")
