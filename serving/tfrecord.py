"""The framing of TFRecord files, without TensorFlow: length, its checksum, data, their checksum.

The only well-kept reader without TensorFlow, the package `tfrecord`, checks no checksums.

Source: TensorFlow's core/lib/io/{record_reader,record_writer}.cc and core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
# No message of protocol buffers is larger; a length above comes from a file of another format.
_MAX_BYTES = 2**31


class DamagedRecordError(Exception):
    """A record is incomplete, or a checksum does not fit.

    Attributes:
      offset: Where the record begins, bytes.
      resumable: Whether only the data are damaged, and the file is at the next record.
    """

    def __init__(self, offset: int, *, truncated: bool = False, resumable: bool = False) -> None:
        """Takes the position, and whether the file ends inside the record."""
        super().__init__(f"{'truncated' if truncated else 'corrupted'} record at {offset}")
        self.offset, self.resumable = offset, resumable


def frame(data: bytes) -> bytes:
    """Returns the bytes of a record in a file."""
    length = len(data).to_bytes(8, "little")
    return b"".join((length, _CHECKSUM.pack(_masked_crc(length)), data, _CHECKSUM.pack(_masked_crc(data))))


def records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields the records of a file from its current position: offset of the record's end, data.

    Holds one record in memory.

    Raises:
      DamagedRecordError: At the first damage; another call continues behind it if it is resumable.
    """
    offset = file.tell()
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise DamagedRecordError(offset, truncated=True)
        length, checksum = _HEADER.unpack(header)
        if _masked_crc(header[:8]) != checksum or length > _MAX_BYTES:
            raise DamagedRecordError(offset)
        data, end = file.read(length), file.read(_CHECKSUM.size)
        if len(data) < length or len(end) < _CHECKSUM.size:
            raise DamagedRecordError(offset, truncated=True)
        if _masked_crc(data) != _CHECKSUM.unpack(end)[0]:
            raise DamagedRecordError(offset, resumable=True)
        offset += _HEADER.size + length + _CHECKSUM.size
        yield offset, data


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
