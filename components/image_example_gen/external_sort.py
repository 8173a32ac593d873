"""Sorting outside of memory: SQLite sorts in files what exceeds a buffer."""

from __future__ import annotations

import contextlib
import itertools
import operator
import os
import pickle
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from typing import TypeVar

_Value = TypeVar("_Value")
# Half of a surrogate pair stands for a byte of a name that is not UTF-8. With it the order of bytes is that of texts.
_ENCODING, _ERRORS = "utf-8", "surrogatepass"


def sorted_by_key(items: Iterable[tuple[str, _Value]], most_in_memory: int) -> Iterator[tuple[str, _Value]]:
    """Sorts pairs of a key and a value; those of one key stay in their order.

    Args:
      items: The pairs. Values that can be pickled.
      most_in_memory: Number of pairs that are sorted in memory; more are in a temporary folder meanwhile.
    """
    iterator = iter(items)
    first = list(itertools.islice(iterator, most_in_memory + 1))
    if len(first) <= most_in_memory:
        yield from sorted(first, key=operator.itemgetter(0))
        return
    rows = (
        (key.encode(_ENCODING, _ERRORS), pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
        for key, value in itertools.chain(first, iterator)
    )
    del first  # only the chain refers to them, and drops them
    with (
        tempfile.TemporaryDirectory(prefix="tfx-vision-sort-") as folder,
        contextlib.closing(sqlite3.connect(os.path.join(folder, "rows"), isolation_level=None)) as connection,
    ):
        # Nobody needs the file after a crash.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE rows (key BLOB, value BLOB)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO rows VALUES (?, ?)", rows)
        connection.execute("COMMIT")
        for key, value in connection.execute("SELECT key, value FROM rows ORDER BY key, rowid"):
            yield key.decode(_ENCODING, _ERRORS), pickle.loads(value)  # this process has written it
