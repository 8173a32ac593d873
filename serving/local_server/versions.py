"""The versions of one model: they appear, are loaded, and go, as in TF Serving.

Source: TF Serving's sources/storage_path/file_system_storage_path_source.cc and
core/{availability_preserving_policy,loader_harness}.cc.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from serving.local_server.errors import RequestError, from_tensorflow
from serving.local_server.model_config import ModelConfig
from serving.local_server.servable import Servable
from trainer_module import model_versions

_LARGEST_VERSION = 2**63 - 1
START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"

Load = Callable[[str, int, str], Servable]


@dataclass
class Version:
    """One version of the model and what has become of it."""

    number: int
    state: str = START
    error_code: str = "OK"
    error_message: str = ""
    servable: Servable | None = None
    users: int = 0  # requests in flight
    failed_stamp: tuple[tuple[str, int, int], ...] | None = None  # of the folder that could not be loaded


@dataclass(frozen=True)
class LoadRetries:
    """What is done about a version that cannot be loaded.

    Attributes:
      count: How often it is tried again before it is given up.
      interval_s: How long after each failure.
    """

    count: int = 0
    interval_s: float = 60.0


class ServedModel:
    """Follows a base path: what the version policy asks for is loaded, what it no longer asks for is let go.

    A new version is loaded before an old one is let go; one that cannot be loaded leaves the old one serving, and is
    tried again when its folder changes. A folder counts as a version once its `saved_model.pb` is there, which Pusher
    writes last.
    """

    def __init__(self, config: ModelConfig, load: Load, retries: LoadRetries) -> None:
        """Takes what the instance needs; nothing is loaded before `poll`.

        Args:
          config: Name, base path and policy.
          load: (model name, version, folder) → a version that is ready to answer.
          retries: What is done about a version that cannot be loaded.
        """
        self._config: ModelConfig | None = config
        self._name, self._load, self._retries = config.name, load, retries
        self._versions: dict[int, Version] = {}
        self._lock = threading.Lock()  # of the versions' states; never held while something is loaded
        self._polling = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def configure(self, config: ModelConfig | None) -> None:
        """Takes another base path or policy, which the next `poll` follows; None lets go of every version."""
        self._config = config

    def poll(self) -> None:
        """Looks once at the base path."""
        with self._polling:
            config = self._config
            found: dict[int, str] = {}
            if config is not None:
                try:
                    found = _version_folders(config.base_path)
                except tf.errors.OpError as error:
                    logging.warning(
                        "Could not find base path %s for servable %s: %s", config.base_path, self._name, error
                    )
                    return  # a base path that is gone, perhaps for a moment, unloads nothing
            aspired = config.policy.aspired(found) if config is not None else []
            for number in aspired:
                if self._stopped.is_set():
                    return
                self._load_unless_known(number, found[number])
            with self._lock:
                ready = [number for number in aspired if self._versions[number].state == AVAILABLE]
                for version in self._versions.values():
                    if version.state == AVAILABLE and version.number not in aspired and (ready or not aspired):
                        version.state = UNLOADING
                        if not version.users:
                            _end(version)

    def watch(self, interval_s: float) -> None:
        """Polls in a thread of its own until `stop`."""

        def loop() -> None:
            while not self._stopped.wait(interval_s):
                try:
                    self.poll()
                except Exception:  # the next look may succeed, and without a thread there would be none
                    logging.exception("Looking for versions of %s failed.", self._name)

        self._thread = threading.Thread(target=loop, name=f"versions-of-{self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watching and lets go of every version."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        with self._lock:
            for version in self._versions.values():
                if version.state == AVAILABLE:
                    version.state = UNLOADING
                    if not version.users:
                        _end(version)

    def acquire(self, number: int | None) -> Version | None:
        """The newest available version, or the one asked for; it stays loaded until `release`."""
        with self._lock:
            available = [version for version in self._versions.values() if version.state == AVAILABLE]
            found = max(
                (version for version in available if number in (None, version.number)),
                key=lambda version: version.number,
                default=None,
            )
            if found:
                found.users += 1
            return found

    def release(self, version: Version) -> None:
        """Gives a version back; the last request in flight frees one that is to go."""
        with self._lock:
            version.users -= 1
            if version.state == UNLOADING and not version.users:
                _end(version)

    def versions(self) -> list[Version]:
        """All versions ever seen, newest first."""
        with self._lock:
            return sorted(self._versions.values(), key=lambda version: -version.number)

    def available(self) -> bool:
        """Whether there is a version that answers."""
        return any(version.state == AVAILABLE for version in self.versions())

    def _load_unless_known(self, number: int, folder: str) -> None:
        known = self._versions.get(number)
        if known is not None:
            if known.state in (AVAILABLE, UNLOADING):
                return
            if known.failed_stamp is not None and known.failed_stamp == _stamp(folder):
                return
        version = Version(number, LOADING)
        with self._lock:
            self._versions[number] = version
        error = RequestError("UNKNOWN", "")
        for attempt in range(self._retries.count + 1):
            if attempt and self._stopped.wait(self._retries.interval_s):
                break
            stamp = _stamp(folder)
            try:
                servable = self._load(self._name, number, folder)
            except Exception as raised:  # loaders raise whatever they like
                error = _as_request_error(raised)
                logging.error("Loading servable {%s %d} failed: %s", self._name, number, error.message)
                continue
            with self._lock:
                version.servable, version.state = servable, AVAILABLE
            logging.info("Successfully loaded servable version {%s %d}", self._name, number)
            return
        with self._lock:
            version.state, version.failed_stamp = END, stamp
            version.error_code, version.error_message = error.code, error.message


def _end(version: Version) -> None:
    servable, version.servable, version.state = version.servable, None, END
    if servable:
        servable.close()


def _as_request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, tf.errors.OpError):
        return from_tensorflow(error)
    code = "NOT_FOUND" if isinstance(error, OSError) else "UNKNOWN"
    return RequestError(code, f"{type(error).__name__}: {error}")


def _version_folders(base_path: str) -> dict[int, str]:
    """Version → folder. Of 1 and 01 the later name wins, as it does in TF Serving."""
    found: dict[int, str] = {}
    for entry in sorted(tf.io.gfile.listdir(base_path)):
        name = entry.rstrip("/")  # object stores end folders with a slash
        if not (name.isascii() and name.isdigit()) or len(name) > 64 or int(name) > _LARGEST_VERSION:
            continue
        folder = f"{base_path.rstrip('/')}/{name}"
        if not tf.io.gfile.exists(f"{folder}/{model_versions.MODEL_FILE}"):
            continue
        if int(name) in found:
            logging.warning("Duplicate version directories %s and %s: the latter is used.", found[int(name)], folder)
        found[int(name)] = folder
    return found


def _stamp(folder: str) -> tuple[tuple[str, int, int], ...]:
    """Changes with any file below the folder: (path, size, time) of each."""
    stamps = []
    try:
        for root, _, files in tf.io.gfile.walk(folder):
            for name in files:
                status = tf.io.gfile.stat(f"{root}/{name}")
                stamps.append((f"{root}/{name}", int(status.length), int(status.mtime_nsec)))
    except tf.errors.OpError:
        pass  # it is being changed this moment: the next look sees more
    return tuple(sorted(stamps))
