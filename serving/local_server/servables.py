"""The models that the server has loaded: versions appear, are loaded, and go, as in TF Serving."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving.local_server.errors import RequestError, from_tensorflow
from trainer_module.features import SERVING_DEFAULT
from trainer_module.session_model import SessionModel

_MODEL_FILE = "saved_model.pb"
START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"


@dataclass
class Version:
    """One version of the model and what has become of it."""

    number: int
    state: str = START
    error_code: str = "OK"
    error_message: str = ""
    model: SessionModel | None = None
    failed_stamp: int | None = None  # of the folder that could not be loaded


class ModelSource:
    """Serves the newest version below a base path and follows what happens there.

    A new version is loaded before the old one is let go; one that cannot be loaded leaves the old one serving. A
    folder counts as a version once its `saved_model.pb` is there, which Pusher writes last.
    """

    def __init__(self, model_name: str, base_path: Path) -> None:
        """Takes what the instance needs.

        Args:
          model_name: The name that clients ask for.
          base_path: Folder of numbered version folders.
        """
        self.model_name = model_name
        self._base_path = base_path
        self._versions: dict[int, Version] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def poll(self) -> None:
        """Looks once at the base path: loads the newest version there, lets go of what is no longer there.

        A version that could not be loaded is tried again when its folder has changed.
        """
        try:
            found = _version_folders(self._base_path)
        except OSError:
            return  # a base path that is gone, perhaps for a moment, unloads nothing
        with self._lock:
            if not found:
                self._unload_but(None)
                return
            newest = max(found)
            stamp = (found[newest] / _MODEL_FILE).stat().st_mtime_ns
            version = self._versions.get(newest)
            if version is not None and (version.model is not None or version.failed_stamp == stamp):
                if version.model is not None:
                    self._unload_but(version)
                return
            version = self._versions[newest] = Version(newest, LOADING)
        try:
            model = SessionModel(str(found[newest]))
        except Exception as error:
            code = from_tensorflow(error).code if isinstance(error, tf.errors.OpError) else "UNKNOWN"
            logging.error("Version %d of %s cannot be loaded: %s", newest, self.model_name, error)
            with self._lock:
                version.state, version.error_code, version.error_message = END, code, str(error)
                version.failed_stamp = stamp
            return
        with self._lock:
            version.model, version.state = model, AVAILABLE
            self._unload_but(version)
        logging.info("Version %d of %s is available.", newest, self.model_name)

    def _unload_but(self, kept: Version | None) -> None:
        """Lets go of every other loaded version; requests in flight hold theirs until they are done."""
        for version in self._versions.values():
            if version is not kept and version.model is not None:
                version.state, version.model = END, None

    def watch(self, interval_s: float = 1.0) -> None:
        """Polls in a thread of its own until `stop`."""

        def loop() -> None:
            while not self._stopped.wait(interval_s):
                self.poll()

        self._thread = threading.Thread(target=loop, name="model-source", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watching."""
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def versions(self) -> list[Version]:
        """All versions ever seen, newest first."""
        with self._lock:
            return sorted(self._versions.values(), key=lambda version: -version.number)

    def find(self, model_name: str, version: int | None = None, label: str | None = None) -> tuple[int, SessionModel]:
        """The version number and model that a request asks for.

        Raises:
          RequestError: NOT_FOUND for an unknown model or a version that is not available, INVALID_ARGUMENT for a
            label.
        """
        wanted = f"Latest({model_name})" if version is None else f"Specific({model_name}, {version})"
        if model_name == self.model_name:
            if label is not None:
                raise RequestError("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            for candidate in self.versions():
                if candidate.model is not None and version in (None, candidate.number):
                    return candidate.number, candidate.model
        raise RequestError("NOT_FOUND", f"Servable not found for request: {wanted}")

    def status(self, model_name: str, version: int | None = None) -> list[Version]:
        """The states of all versions, or of one.

        Raises:
          RequestError: NOT_FOUND.
        """
        found = self.versions() if model_name == self.model_name else []
        if version is not None:
            found = [candidate for candidate in found if candidate.number == version]
            if not found:
                raise RequestError("NOT_FOUND", f"Could not find version {version} of model {model_name}")
        if not found:
            raise RequestError("NOT_FOUND", f"Could not find any versions of model {model_name}")
        return found


def _version_folders(base_path: Path) -> dict[int, Path]:
    return {
        int(entry.name): entry
        for entry in base_path.iterdir()
        if entry.name.isascii() and entry.name.isdigit() and (entry / _MODEL_FILE).is_file()
    }


def predict(
    model: SessionModel, signature: str, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Runs a signature with the checks that TF Serving makes, and no others: shapes are the graph's business.

    Args:
      model: The loaded version.
      signature: Its name; empty means `serving_default`.
      inputs: By alias.
      output_filter: Wanted outputs; empty means all.

    Raises:
      RequestError: As TF Serving words it.
    """
    signature = signature or SERVING_DEFAULT
    if signature not in model.signatures:
        raise RequestError("FAILED_PRECONDITION", f'Serving signature key "{signature}" not found.')
    definition = model.signatures[signature]
    _check_aliases(set(inputs), set(definition.inputs))
    for index, alias in enumerate(definition.inputs):
        expected = tf.dtypes.as_dtype(definition.inputs[alias].dtype)
        given = tf.string if inputs[alias].dtype == object else tf.dtypes.as_dtype(inputs[alias].dtype)
        if given != expected:
            names = f"{data_type_name(expected)} but {data_type_name(given)}"
            raise RequestError("INVALID_ARGUMENT", f"Expects arg[{index}] to be {names} is provided")
    for name in output_filter:
        if name not in definition.outputs:
            known = ",".join(sorted(definition.outputs))
            raise RequestError(
                "INVALID_ARGUMENT",
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{known}}}.",
            )
    if len(set(output_filter)) != len(output_filter):
        raise RequestError("INVALID_ARGUMENT", "duplicate output tensor alias: " + ",".join(output_filter))
    try:
        return model.run(signature, inputs, output_filter or None)
    except tf.errors.OpError as error:
        raise from_tensorflow(error) from None
    except ValueError as error:  # the session's own check of a shape
        raise RequestError("INVALID_ARGUMENT", str(error)) from None


def data_type_name(dtype: tf.DType) -> str:
    """TensorFlow's C++ name of a type, which its messages use: float, not float32."""
    name: str = dtype.name
    return {"float16": "half", "float32": "float", "float64": "double"}.get(name, name)


def _check_aliases(given: set[str], expected: set[str]) -> None:
    extra, missing = sorted(given - expected), sorted(expected - given)
    if len(given) != len(expected):
        comparison = f"{len(given)}!={len(expected)} len({{{','.join(sorted(given))}}}) != "
        comparison += f"len({{{','.join(sorted(expected))}}})"
        raise RequestError(
            "INVALID_ARGUMENT",
            f"input size does not match signature: {comparison}. "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}.",
        )
    if missing:
        raise RequestError(
            "INVALID_ARGUMENT",
            f"Signature input alias: {missing[0]} not found in request. Inputs expected to be in the set "
            f"{{{','.join(sorted(expected))}}}.",
        )
