"""Pushes, rolls back and deletes versions in the folder that a model server watches.

A model server watches folders whose name is a number and serves the highest. A version is therefore written under
another name and renamed when it is complete; rolling back renames the newer versions, which can be restored. Imports no
TensorFlow unless the folder is in an object store.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from trainer_module import locations
from trainer_module.locations import is_remote, join

MODEL_FILE = "saved_model.pb"
# TensorFlow Serving ignores this folder of a SavedModel.
MANIFEST_FILE = "assets.extra/manifest.json"
# The new version, and the one that a server uses while it loads the new one.
MIN_KEPT_VERSIONS = 2

_VERSION = re.compile(r"0|[1-9][0-9]{0,17}")
_WITHDRAWN = re.compile(r"withdrawn-(0|[1-9][0-9]{0,17})")
_STAGING = re.compile(r"\.(?:staging|removed)-[0-9]+-(?P<host>.+)-(?P<pid>[0-9]+)")
_CHUNK_BYTES = 1 << 20


class VersionError(Exception):
    """The folder does not contain the requested version; the message lists its versions."""


class PushedVersion(NamedTuple):
    """The result of a push.

    Attributes:
      version: The new version's number.
      path: Its folder.
      removed: The old versions that were deleted.
    """

    version: int
    path: str
    removed: tuple[int, ...]


class Versions(NamedTuple):
    """The complete versions in a folder, the newest first.

    Attributes:
      served: Versions that a model server sees; it serves the first.
      withdrawn: Versions that a rollback took out of service.
    """

    served: tuple[int, ...]
    withdrawn: tuple[int, ...]


def list_versions(base: str) -> Versions:
    """Lists the complete versions: those with `saved_model.pb`, which is written last.

    Args:
      base: The folder of versions; it need not exist.
    """
    files = locations.file_system(base)
    names = [name.rstrip("/") for name in files.listdir(base)] if files.exists(base) else []

    def numbers(pattern: re.Pattern[str], group: int) -> tuple[int, ...]:
        matches = [(int(match[group]), name) for name in names if (match := pattern.fullmatch(name))]
        return tuple(sorted((n for n, name in matches if files.exists(join(base, name, MODEL_FILE))), reverse=True))

    return Versions(numbers(_VERSION, 0), numbers(_WITHDRAWN, 1))


def push(
    model_dir: str, base: str, *, keep: int | None = None, provenance: dict[str, Any] | None = None
) -> PushedVersion:
    """Adds a model as the newest version.

    On a local file system the version appears atomically: it is written under a name that servers ignore, synced to the
    disk, and renamed. An object store has no atomic rename: there `saved_model.pb` is written last, and no server can
    load the version before.

    Args:
      model_dir: The SavedModel.
      base: The folder of versions; created if it does not exist.
      keep: Number of versions to keep, at least `MIN_KEPT_VERSIONS`; all if absent.
      provenance: Where the model comes from, for the manifest.

    Raises:
      ValueError: If `keep` is too small.
      OSError: If writing fails; the incomplete version is deleted.
    """
    if keep is not None and keep < MIN_KEPT_VERSIONS:
        raise ValueError(f"keep must be at least {MIN_KEPT_VERSIONS} versions (given: {keep})")
    files = locations.file_system(base)
    files.makedirs(base)
    _remove_leftovers(base)
    # Unix seconds as in TFX, but always increasing, even if the clock is set back.
    version = max([int(time.time()), *(number + 1 for numbers in list_versions(base) for number in numbers[:1])])
    if is_remote(base):
        target = join(base, str(version))
        _write(model_dir, target, version, provenance)
    else:
        target = _temporary_path(base, "staging", version)
        try:
            _write(model_dir, target, version, provenance)
            version = _publish(target, base, version)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    return PushedVersion(version, join(base, str(version)), _prune(base, keep) if keep is not None else ())


def roll_back(base: str, to: int | None = None) -> Versions:
    """Makes an earlier version the newest that servers see; the newer ones are withdrawn, not deleted.

    Args:
      base: The folder of versions.
      to: The version, served or withdrawn; if absent, the one before the newest.

    Returns:
      The versions afterwards.

    Raises:
      VersionError: If the version does not exist or is damaged; nothing is changed then.
    """
    versions = list_versions(base)
    if to is None:
        if len(versions.served) < 2:
            raise VersionError(f"{base} contains {_format(versions)}: there is no earlier version to roll back to.")
        to = versions.served[1]
    if to not in versions.served + versions.withdrawn:
        raise VersionError(f"{base} does not contain version {to}. It contains {_format(versions)}.")
    folder = str(to) if to in versions.served else f"withdrawn-{to}"
    if damage := differences(join(base, folder)):
        raise VersionError(f"Version {to} is damaged, nothing was changed: {'; '.join(damage)}.")
    if to not in versions.served:
        _rename(base, folder, str(to))
    # In ascending order, so that none of them becomes the newest in between.
    for version in sorted(number for number in versions.served if number > to):
        _rename(base, str(version), f"withdrawn-{version}")
    return list_versions(base)


def is_withdrawn(path: str) -> bool:
    """Whether `roll_back` withdrew the version of this folder."""
    base, _, version = path.rstrip("/").rpartition("/")
    withdrawn = join(base, f"withdrawn-{version}", MODEL_FILE)
    return _VERSION.fullmatch(version) is not None and bool(locations.file_system(base).exists(withdrawn))


def is_newest(path: str) -> bool:
    """Whether the folder of a version is the one that a server serves."""
    base, _, version = path.rstrip("/").rpartition("/")
    return _VERSION.fullmatch(version) is not None and list_versions(base).served[:1] == (int(version),)


def differences(path: str) -> list[str]:
    """Compares a version with its manifest.

    Additional files are allowed, such as warm-up requests.

    Args:
      path: The version's folder.

    Returns:
      One clause per difference; none if the version is intact or has no manifest.
    """
    files, manifest_path = locations.file_system(path), join(path, MANIFEST_FILE)
    if not files.exists(join(path, MODEL_FILE)):
        return [f"{MODEL_FILE} is missing"]
    if not files.exists(manifest_path):
        return []
    try:
        with files.GFile(manifest_path, "rb") as file:
            expected = {name: entry["sha256"] for name, entry in json.loads(file.read())["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST_FILE} is damaged"]
    present = set(_walk(path))
    differing = [f"{name} is missing" for name in sorted(expected.keys() - present)]
    for name in sorted(present & expected.keys()):
        if _digest(join(path, name)) != expected[name]:
            differing.append(f"{name} has changed")
    return differing


# --- Writing and deleting -----------------------------------------------------------------------------------------


def _write(model_dir: str, target: str, version: int, provenance: dict[str, Any] | None) -> None:
    names = sorted(name for name in _walk(model_dir) if name not in (MANIFEST_FILE, MODEL_FILE))
    digests = {name: _copy(join(model_dir, name), join(target, name)) for name in names}
    # Read now and written last, after the manifest with its digest.
    model = b"".join(_chunks(join(model_dir, MODEL_FILE)))
    digests[MODEL_FILE] = hashlib.sha256(model).hexdigest()
    content = {
        "version": version,
        "pushed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **(provenance or {}),
        "files": {name: {"sha256": digest} for name, digest in sorted(digests.items())},
    }
    manifest = join(target, MANIFEST_FILE)
    files = locations.file_system(target)
    files.makedirs(os.path.dirname(manifest))
    with files.GFile(manifest, "wb") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False).encode())
    with files.GFile(join(target, MODEL_FILE), "wb") as file:
        file.write(model)
    if not is_remote(target):
        for folder, _, inside in os.walk(target):
            for path in [*(os.path.join(folder, name) for name in inside), folder]:
                locations.sync(path)


def _publish(staged: str, base: str, version: int) -> int:
    """Renames a complete version; takes the next number if another push has used this one meanwhile."""
    while True:
        try:
            os.rename(staged, join(base, str(version)))
        except OSError:
            if not os.path.exists(join(base, str(version))):
                raise
            version += 1
            continue
        locations.sync(base)
        return version


def _prune(base: str, keep: int) -> tuple[int, ...]:
    """Deletes all but the newest versions, and withdrawn versions that are older than these."""
    versions = list_versions(base)
    kept = versions.served[:keep]
    old = [(str(version), version) for version in versions.served[keep:]]
    if len(kept) == keep:
        old += [(f"withdrawn-{version}", version) for version in versions.withdrawn if version < kept[-1]]
    for name, version in old:
        if is_remote(base):
            locations.file_system(base).rmtree(join(base, name))
        else:
            # Renamed first: a server must not see a version with some of its files deleted.
            removed = _temporary_path(base, "removed", version)
            os.rename(join(base, name), removed)
            shutil.rmtree(removed)
    return tuple(version for _, version in old)


def _remove_leftovers(base: str) -> None:
    """Deletes the temporary folders of killed pushes on this machine; other pushes may still be running."""
    if is_remote(base):
        return
    for name in os.listdir(base):
        match = _STAGING.fullmatch(name)
        if match and match["host"] == socket.gethostname() and not _is_alive(int(match["pid"])):
            shutil.rmtree(join(base, name), ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _temporary_path(base: str, purpose: str, version: int) -> str:
    return join(base, f".{purpose}-{version}-{socket.gethostname()}-{os.getpid()}")


def _rename(base: str, old: str, new: str) -> None:
    if not is_remote(base):
        os.rename(join(base, old), join(base, new))
        locations.sync(base)
        return
    # An object store has no atomic rename, and some of TensorFlow's file systems have none: copies the model file last.
    for name in sorted(_walk(join(base, old)), key=lambda name: name == MODEL_FILE):
        _copy(join(base, old, name), join(base, new, name))
    locations.file_system(base).rmtree(join(base, old))


def _copy(source: str, target: str) -> str:
    """Copies a file and returns its SHA-256."""
    locations.file_system(target).makedirs(os.path.dirname(target))
    digest = hashlib.sha256()
    with locations.file_system(target).GFile(target, "wb") as file:
        for chunk in _chunks(source):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: str) -> Iterator[bytes]:
    with locations.file_system(path).GFile(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _walk(path: str) -> Iterator[str]:
    """Yields the paths of all files below a folder, relative to it, with `/` as separator."""
    for folder, _, names in locations.file_system(path).walk(path):
        inside = folder.removeprefix(path).strip("/")
        for name in names:
            yield str(PurePosixPath(inside, name))


def _format(versions: Versions) -> str:
    text = ", ".join(map(str, versions.served)) or "no version"
    return text + (f", and withdrawn {', '.join(map(str, versions.withdrawn))}" if versions.withdrawn else "")
