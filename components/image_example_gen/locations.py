"""Names of places: local paths, and those that only TensorFlow's file system reads."""

from __future__ import annotations

import os


def is_remote(location: str) -> bool:
    """Whether TensorFlow's file system is needed: `gs://bucket/folder`."""
    return "://" in location


def absolute(location: str) -> str:
    """A local path from the root of the file system; remote ones as they are."""
    return location if is_remote(location) else os.path.abspath(os.path.expanduser(location))


def join(location: str, path: str) -> str:
    """The location of a file below another."""
    return f"{location.rstrip('/')}/{path}" if path else location
