"""The versions of one model: discovered, loaded and unloaded as in TF Serving.

Source: TF Serving's sources/storage_path/file_system_storage_path_source.cc and
core/{availability_preserving_policy,loader_harness}.cc.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.local_server.errors import RequestError
from serving.local_server.model_config import ModelConfig
from serving.local_server.servable import Servable
from trainer_module import locations

_LARGEST_VERSION = 2**63 - 1
START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"

Load = Callable[[str, int, str], Servable]


@dataclass
class ServedVersion:
    """One version of the model and its state."""

    number: int
    state: str = START
    error_code: str = "OK"
    error_message: str = ""
    servable: Servable | None = None
    users: int = 0  # requests in flight
    failed_stamp: tuple[tuple[str, int, int], ...] | None = None  # of the folder that failed to load


@dataclass(frozen=True)
class LoadRetries:
    """Retries of a version that cannot be loaded.

    Attributes:
      count: Number of retries.
      interval_s: Pause before each retry, seconds.
    """

    count: int = 0
    interval_s: float = 60.0


class ServedModel:
    """Polls a base path: loads the versions that the version policy selects, and unloads the others.

    A new version is loaded before an old one is unloaded. If it fails to load, the old one stays, and the new one is
    retried when its folder changes. A folder is a version once it contains its model file: `saved_model.pb`, which
    Pusher writes last.
    """

    def __init__(self, config: ModelConfig, load: Load, retries: LoadRetries, model_files: Sequence[str]) -> None:
        """Takes configuration and loader; nothing is loaded before `poll`.

        Args:
          config: Name, base path and policy.
          load: (model name, version, folder) → a loaded version.
          retries: Retries of a version that cannot be loaded.
          model_files: A folder with one of these files is a version.
        """
        self._model_files = model_files
        self._config: ModelConfig | None = config
        self._name, self._load, self._retries = config.name, load, retries
        self._versions: dict[int, ServedVersion] = {}
        self._lock = threading.Lock()  # guards the versions' states; not held during a load
        self._polling = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def configure(self, config: ModelConfig | None) -> None:
        """Changes base path or policy at the next `poll`; None unloads every version."""
        self._config = config

    def poll(self) -> None:
        """Polls the base path once."""
        with self._polling:
            config = self._config
            folders: dict[int, str] = {}
            if config is not None:
                try:
                    folders = _version_folders(config.base_path, self._model_files)
                except OSError as error:
                    logging.warning(
                        "Could not find base path %s for servable %s: %s", config.base_path, self._name, error
                    )
                    return  # a missing base path, perhaps only for a moment, unloads nothing
            aspired = config.policy.aspired(folders) if config is not None else []
            for number in aspired:
                if self._stopped.is_set():
                    return
                self._load_unless_known(number, folders[number])
            with self._lock:
                ready = [number for number in aspired if self._versions[number].state == AVAILABLE]
                for version in self._versions.values():
                    if version.number not in aspired and (ready or not aspired):
                        _unload(version)

    def watch(self, interval_s: float) -> None:
        """Polls in a separate thread until `stop`."""

        def loop() -> None:
            while not self._stopped.wait(interval_s):
                try:
                    self.poll()
                except Exception:  # the next poll may succeed; without this the thread would end
                    logging.exception("Looking for versions of %s failed.", self._name)

        self._thread = threading.Thread(target=loop, name=f"versions-of-{self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the polling and unloads every version."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        with self._lock:
            for version in self._versions.values():
                _unload(version)

    def acquire(self, number: int | None) -> ServedVersion | None:
        """Returns the newest available version, or the requested one; it stays loaded until `release`."""
        with self._lock:
            available = [version for version in self._versions.values() if version.state == AVAILABLE]
            acquired = max(
                (version for version in available if number in (None, version.number)),
                key=lambda version: version.number,
                default=None,
            )
            if acquired:
                acquired.users += 1
            return acquired

    def release(self, version: ServedVersion) -> None:
        """Releases a version; the last request in flight unloads it if that is due."""
        with self._lock:
            version.users -= 1
            if version.state == UNLOADING and not version.users:
                _end(version)

    def versions(self) -> list[ServedVersion]:
        """Returns all versions since the start, newest first."""
        with self._lock:
            return sorted(self._versions.values(), key=lambda version: -version.number)

    def available(self) -> bool:
        """Whether a version is available."""
        return any(version.state == AVAILABLE for version in self.versions())

    def _load_unless_known(self, number: int, folder: str) -> None:
        known = self._versions.get(number)
        if known is not None:
            if known.state in (AVAILABLE, UNLOADING):
                return
            if known.failed_stamp is not None and known.failed_stamp == _stamp(folder):
                return
        version = ServedVersion(number, LOADING)
        with self._lock:
            self._versions[number] = version
        error = RequestError("UNKNOWN", "")
        for attempt in range(self._retries.count + 1):
            if attempt and self._stopped.wait(self._retries.interval_s):
                break
            stamp = _stamp(folder)
            try:
                servable = self._load(self._name, number, folder)
            except Exception as raised:  # loaders raise many classes
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


def _unload(version: ServedVersion) -> None:
    """Unloads an available version: now, or after its last request in flight."""
    if version.state == AVAILABLE:
        version.state = UNLOADING
        if not version.users:
            _end(version)


def _end(version: ServedVersion) -> None:
    servable, version.servable, version.state = version.servable, None, END
    if servable:
        servable.close()


def _as_request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    code = "NOT_FOUND" if isinstance(error, OSError) else "UNKNOWN"
    return RequestError(code, f"{type(error).__name__}: {error}")


def _version_folders(base_path: str, model_files: Sequence[str]) -> dict[int, str]:
    """Returns version → folder, of folders with one of the files. Of 1 and 01 the later name wins, as in TF Serving.

    Raises:
      OSError: If the base path cannot be read.
    """
    folders: dict[int, str] = {}
    with locations.os_errors(base_path):
        files = locations.file_system(base_path)
        for entry in sorted(files.listdir(base_path)):
            name = entry.rstrip("/")  # object stores end folders with a slash
            if not (name.isascii() and name.isdigit()) or len(name) > 64 or int(name) > _LARGEST_VERSION:
                continue
            folder, number = locations.join(base_path, name), int(name)
            if not any(files.exists(locations.join(folder, file)) for file in model_files):
                continue
            if number in folders:
                logging.warning("Duplicate version directories %s and %s: the latter is used.", folders[number], folder)
            folders[number] = folder
    return folders


def _stamp(folder: str) -> tuple[tuple[str, int, int], ...]:
    """Returns a stamp that changes with any file in the folder: (path, size, time) of each."""
    stamps = []
    try:
        with locations.os_errors(folder):
            for root, _, files in locations.file_system(folder).walk(folder):
                stamps += [(path, *locations.size_and_time(path)) for path in (f"{root}/{name}" for name in files)]
    except OSError:
        pass  # the folder is changing at this moment; the next poll sees more
    return tuple(sorted(stamps))
