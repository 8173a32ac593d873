"""The folder of numbered versions that a model server watches: what is added to it, taken back and removed.

A model server looks for folders whose name is a number, and serves the highest. So a version is written under another
name and renamed when it is whole; one that is withdrawn is renamed, and can be put back. Imports no TensorFlow unless
the folder is not on a local file system.
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
# TensorFlow Serving leaves this folder of a SavedModel alone.
MANIFEST_FILE = "assets.extra/manifest.json"
# The new one, and the one that a server still answers from while it loads the new one.
FEWEST_KEPT = 2

_VERSION = re.compile(r"0|[1-9][0-9]{0,17}")
_WITHDRAWN = re.compile(r"withdrawn-(0|[1-9][0-9]{0,17})")
_STAGING = re.compile(r"\.(?:staging|removed)-[0-9]+-(?P<host>.+)-(?P<pid>[0-9]+)")
_CHUNK_BYTES = 1 << 20


class VersionError(Exception):
    """The folder does not hold what was asked for; the message says what it holds."""


class Pushed(NamedTuple):
    """What was done.

    Attributes:
      version: The new version's number.
      path: Its folder.
      removed: The old versions that were removed.
    """

    version: int
    path: str
    removed: tuple[int, ...]


class Versions(NamedTuple):
    """The whole versions in a folder, the newest first.

    Attributes:
      served: Those that a model server sees; it serves the first.
      withdrawn: Those that were put aside.
    """

    served: tuple[int, ...]
    withdrawn: tuple[int, ...]


def find(base: str) -> Versions:
    """Lists the versions that are whole, as far as their `saved_model.pb`, which is written last, tells.

    Args:
      base: The folder; none where it does not exist.
    """
    files = locations.file_system(base)
    names = [name.rstrip("/") for name in files.listdir(base)] if files.exists(base) else []

    def numbers(pattern: re.Pattern[str], group: int) -> tuple[int, ...]:
        found = [(int(match[group]), name) for name in names if (match := pattern.fullmatch(name))]
        return tuple(sorted((n for n, name in found if files.exists(join(base, name, MODEL_FILE))), reverse=True))

    return Versions(numbers(_VERSION, 0), numbers(_WITHDRAWN, 1))


def push(model_dir: str, base: str, *, keep: int | None = None, about: dict[str, Any] | None = None) -> Pushed:
    """Adds a model as the newest version.

    On a local file system the version appears at once and whole, whatever happens meanwhile: it is written under a name
    that no server looks at, synced to the disk, and renamed. An object store has no such renaming: there
    `saved_model.pb` is written last, before which no server can load it.

    Args:
      model_dir: The SavedModel.
      base: The folder of versions, which is made if need be.
      keep: How many versions stay, at least `FEWEST_KEPT`; all when absent.
      about: What the manifest should say beside the files: where the model comes from.

    Raises:
      ValueError: If fewer would be kept than a server needs.
      OSError: If the disk does not take it; nothing is left of the version then.
    """
    if keep is not None and keep < FEWEST_KEPT:
        raise ValueError(f"at least {FEWEST_KEPT} versions must be kept, not {keep}")
    files = locations.file_system(base)
    files.makedirs(base)
    _remove_leftovers(base)
    # Unix seconds, as TFX's; but always upwards, whatever the clock does.
    version = max([int(time.time()), *(number + 1 for numbers in find(base) for number in numbers[:1])])
    if is_remote(base):
        target = join(base, str(version))
        _write(model_dir, target, version, about)
    else:
        target = _private(base, "staging", version)
        try:
            _write(model_dir, target, version, about)
            version = _publish(target, base, version)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
    return Pushed(version, join(base, str(version)), _prune(base, keep) if keep is not None else ())


def roll_back(base: str, to: int | None = None) -> Versions:
    """Makes an earlier version the newest that a server sees; the newer ones are put aside, not lost.

    Args:
      base: The folder of versions.
      to: The version; the one before the newest when absent. One that was put aside comes back.

    Returns:
      What there is afterwards.

    Raises:
      VersionError: If there is no such version, or it is not whole; nothing has changed then.
    """
    found = find(base)
    if to is None:
        if len(found.served) < FEWEST_KEPT:
            raise VersionError(f"{base} holds {_told(found)}: there is no version before it to go back to.")
        to = found.served[1]
    if to not in found.served + found.withdrawn:
        raise VersionError(f"{base} holds no version {to}. It holds {_told(found)}.")
    folder = str(to) if to in found.served else f"withdrawn-{to}"
    if damage := differences(join(base, folder)):
        raise VersionError(f"Version {to} is not what was pushed, and nothing was changed: {'; '.join(damage)}.")
    if to not in found.served:
        _rename(base, folder, str(to))
    # From the lowest upwards: none of them becomes the newest on the way.
    for version in sorted(number for number in found.served if number > to):
        _rename(base, str(version), f"withdrawn-{version}")
    return find(base)


def is_withdrawn(path: str) -> bool:
    """Whether the version in this folder was put aside by `roll_back`."""
    base, _, version = path.rstrip("/").rpartition("/")
    aside = join(base, f"withdrawn-{version}", MODEL_FILE)
    return _VERSION.fullmatch(version) is not None and bool(locations.file_system(base).exists(aside))


def is_newest(path: str) -> bool:
    """Whether the folder of a version is the one that a server chooses among its neighbours."""
    base, _, version = path.rstrip("/").rpartition("/")
    return _VERSION.fullmatch(version) is not None and find(base).served[:1] == (int(version),)


def differences(path: str) -> list[str]:
    """How a version differs from its manifest, one sentence each; none where it is whole or has no manifest.

    Further files are no difference: people add requests to warm up with.

    Args:
      path: The version's folder.
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
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - present)]
    for name in sorted(present & expected.keys()):
        if _digest(join(path, name)) != expected[name]:
            wrong.append(f"{name} has changed")
    return wrong


# --- Writing and removing -----------------------------------------------------------------------------------------


def _write(model_dir: str, target: str, version: int, about: dict[str, Any] | None) -> None:
    names = sorted(name for name in _walk(model_dir) if name not in (MANIFEST_FILE, MODEL_FILE))
    digests = {name: _copy(join(model_dir, name), join(target, name)) for name in names}
    # Kept until it is written as the last file, after the manifest that names its digest.
    model = b"".join(_chunks(join(model_dir, MODEL_FILE)))
    digests[MODEL_FILE] = hashlib.sha256(model).hexdigest()
    said = {
        "version": version,
        "pushed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **(about or {}),
        "files": {name: {"sha256": digest} for name, digest in sorted(digests.items())},
    }
    manifest = join(target, MANIFEST_FILE)
    files = locations.file_system(target)
    files.makedirs(os.path.dirname(manifest))
    with files.GFile(manifest, "wb") as file:
        file.write(json.dumps(said, indent=2, ensure_ascii=False).encode())
    with files.GFile(join(target, MODEL_FILE), "wb") as file:
        file.write(model)
    if not is_remote(target):
        for folder, _, inside in os.walk(target):
            for path in [*(os.path.join(folder, name) for name in inside), folder]:
                _sync(path)


def _publish(staged: str, base: str, version: int) -> int:
    """Renames what is whole; should another have taken the number meanwhile, the next one is taken."""
    while True:
        try:
            os.rename(staged, join(base, str(version)))
        except OSError:
            if not os.path.exists(join(base, str(version))):
                raise
            version += 1
            continue
        _sync(base)
        return version


def _prune(base: str, keep: int) -> tuple[int, ...]:
    """Removes all but the newest versions, and what was put aside and is older than these."""
    found = find(base)
    kept = found.served[:keep]
    old = [(str(version), version) for version in found.served[keep:]]
    if len(kept) == keep:
        old += [(f"withdrawn-{version}", version) for version in found.withdrawn if version < kept[-1]]
    for name, version in old:
        if is_remote(base):
            locations.file_system(base).rmtree(join(base, name))
        else:
            # Renamed first: a server must not see a version vanish file by file.
            doomed = _private(base, "removed", version)
            os.rename(join(base, name), doomed)
            shutil.rmtree(doomed)
    return tuple(version for _, version in old)


def _remove_leftovers(base: str) -> None:
    """Removes what pushes have left that were killed on this machine; others may still be at work."""
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


def _private(base: str, what: str, version: int) -> str:
    return join(base, f".{what}-{version}-{socket.gethostname()}-{os.getpid()}")


def _rename(base: str, old: str, new: str) -> None:
    if not is_remote(base):
        os.rename(join(base, old), join(base, new))
        _sync(base)
        return
    # An object store renames file by file, and not all of TensorFlow's file systems do: the model comes last here too.
    for name in sorted(_walk(join(base, old)), key=lambda name: name == MODEL_FILE):
        _copy(join(base, old, name), join(base, new, name))
    locations.file_system(base).rmtree(join(base, old))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: str, target: str) -> str:
    """Copies a file and gives its SHA-256."""
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
    """Names of all files below, with `/` between folders."""
    for folder, _, names in locations.file_system(path).walk(path):
        inside = folder.removeprefix(path).strip("/")
        for name in names:
            yield str(PurePosixPath(inside, name))


def _told(found: Versions) -> str:
    told = ", ".join(map(str, found.served)) or "no version"
    return told + (f", and withdrawn {', '.join(map(str, found.withdrawn))}" if found.withdrawn else "")
