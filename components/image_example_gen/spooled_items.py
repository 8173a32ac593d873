"""Items that are read several times: pickled, in memory up to a size and in a temporary file beyond it."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import IO, Generic, TypeVar

from components.image_example_gen.exchange import IMAGES_PER_PARTITION
from trainer_module.locations import os_errors

_Item = TypeVar("_Item")
_ITEMS_PER_BATCH = 250


def kept(items: Iterable[_Item]) -> Iterable[_Item]:
    """Returns items that can be read several times: those of an iterator are in a list, many are in a file."""
    if not isinstance(items, Iterator):
        return items
    first = list(itertools.islice(items, IMAGES_PER_PARTITION + 1))
    if len(first) <= IMAGES_PER_PARTITION:
        return first
    waiting = itertools.chain(first, items)
    del first  # only the chain refers to them, and drops them
    return SpooledItems(waiting, most_bytes_in_memory=1)


class SpooledItems(Iterable[_Item], Generic[_Item]):
    """Items in their order."""

    def __init__(self, items: Iterable[_Item] = (), most_bytes_in_memory: int = 16 * 2**20) -> None:
        """Takes all items; beyond so many bytes, at least one, they go to a file.

        Raises:
          OSError: If it cannot be written; names the folder of temporary files.
        """
        self._file = tempfile.SpooledTemporaryFile(most_bytes_in_memory, prefix="tfx-vision-items-")
        weakref.finalize(self, _close, self._file)
        self._end = 0
        self.extend(items)

    def extend(self, items: Iterable[_Item]) -> None:
        """Adds items at the end.

        Raises:
          OSError: If the file cannot be written; names the folder of temporary files.
        """
        iterator = iter(items)
        while batch := list(itertools.islice(iterator, _ITEMS_PER_BATCH)):
            with os_errors(tempfile.tempdir or ""):
                self._file.seek(self._end)  # an iterator may have read meanwhile
                pickle.dump(batch, self._file, pickle.HIGHEST_PROTOCOL)
                self._file.flush()
            self._end = self._file.tell()

    def __iter__(self) -> Iterator[_Item]:
        position = 0
        while position < self._end:
            self._file.seek(position)  # another iterator may have read meanwhile
            batch = pickle.load(self._file)  # this process has written it
            position = self._file.tell()
            yield from batch


def _close(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # a full disk, which an error has already reported
        file.close()
