"""`ram://` for TFX and Beam, which TensorFlow has: whatever opens a file by its path alone fails there.

It stands for `gs://`, which needs the network.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import tensorflow as tf
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from tensorflow.python.lib.io import file_io
from tfx.dsl.io import filesystem_registry
from tfx.dsl.io.plugins import tensorflow_gfile

SCHEME = "ram"


class _BeamFiles(FileSystem):
    """Beam's view; Beam finds it, as a subclass of its own, by its scheme."""

    @classmethod
    def scheme(cls) -> str:
        return SCHEME

    def join(self, base: str, *names: str) -> str:
        return "/".join([base.rstrip("/"), *(name.strip("/") for name in names)])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path: str) -> None:
        tf.io.gfile.makedirs(path)

    def has_dirs(self) -> bool:
        return False  # as a bucket

    def _list(self, path: str) -> Iterator[FileMetadata]:
        for folder, _, names in tf.io.gfile.walk(path.rstrip("/")):
            for name in names:
                yield self.metadata(self.join(folder, name))

    def create(self, path: str, mime_type: str = "", compression_type: str = "") -> Any:
        return tf.io.gfile.GFile(path, "wb")

    def open(self, path: str, mime_type: str = "", compression_type: str = "") -> Any:
        with tf.io.gfile.GFile(path, "rb") as file:
            return io.BytesIO(file.read())

    def copy(self, sources: list[str], targets: list[str]) -> None:
        for source, target in zip(sources, targets, strict=True):
            tf.io.gfile.copy(source, target, overwrite=True)

    def rename(self, sources: list[str], targets: list[str]) -> None:
        self.copy(sources, targets)
        self.delete(sources)

    def exists(self, path: str) -> bool:
        return bool(tf.io.gfile.exists(path))

    def size(self, path: str) -> int:
        return self.metadata(path).size_in_bytes

    def last_updated(self, path: str) -> float:
        return self.metadata(path).last_updated_in_seconds

    def checksum(self, path: str) -> str:
        return str(self.size(path))

    def metadata(self, path: str) -> FileMetadata:
        status = tf.io.gfile.stat(path)
        return FileMetadata(path, status.length, status.mtime_nsec / 1e9)

    def delete(self, paths: list[str]) -> None:
        missing = {}
        for path in paths:
            try:
                (tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove)(path)
            except tf.errors.NotFoundError as error:
                missing[path] = error
        if missing:
            raise BeamIOError("delete", missing)


class _TfxFiles(tensorflow_gfile.TensorflowFilesystem):  # type: ignore[misc]
    SUPPORTED_SCHEMES: ClassVar[list[str]] = [f"{SCHEME}://"]


def register(patch: pytest.MonkeyPatch) -> None:
    """Registers the scheme with TFX, and fixes two errors of TensorFlow with it.

    The folder `assets` is listed with `.extra`, what is left of the name of `assets.extra` beside it; and what is
    written to a file that exists is added to it.
    """
    filesystem_registry.DEFAULT_FILESYSTEM_REGISTRY.register(_TfxFiles, priority=0)
    listed = file_io.list_directory_v2

    def children(path: str) -> list[str]:
        names = listed(path)
        if not str(path).startswith(f"{SCHEME}://"):
            return list(names)
        return [name for name in names if tf.io.gfile.exists(f"{str(path).rstrip('/')}/{name}")]

    class NewFile(tf.io.gfile.GFile):  # type: ignore[misc]
        def __init__(self, name: str, mode: str = "r") -> None:
            if mode.startswith("w") and str(name).startswith(f"{SCHEME}://") and tf.io.gfile.exists(name):
                tf.io.gfile.remove(name)
            super().__init__(name, mode)

    patch.setattr(tf.io.gfile, "GFile", NewFile)
    patch.setattr(file_io, "list_directory_v2", children)
    patch.setattr(tf.io.gfile, "listdir", children)
