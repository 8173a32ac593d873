"""All models of the server: looked up by name, version or label, and reloaded without interrupting requests.

Source: TF Serving's model_servers/{server_core,get_model_status_impl}.cc.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from serving.local_server import loader, monitoring, warmup
from serving.local_server.errors import RequestError, invalid_argument
from serving.local_server.model_config import LoggingConfig, ModelConfig
from serving.local_server.servable import LoadOptions, Servable, SessionRunner
from serving.local_server.versions import AVAILABLE, END, LoadRetries, ServedModel, ServedVersion
from trainer_module import locations, model_versions


class ModelSource:
    """Keeps the models of a configuration loaded, and provides them to requests."""

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        runner: Callable[[str], SessionRunner],
        *,
        load_options: LoadOptions | None = None,
        retries: LoadRetries | None = None,
        warmup_iterations: int = 1,
        labels_of_unavailable_versions: bool = False,
    ) -> None:
        """Takes the configuration; nothing is loaded before `poll`.

        Args:
          configs: The models.
          runner: A version's folder → its runner, which decides when a call runs.
          load_options: Options of the sessions.
          retries: Retries of a version that cannot be loaded.
          warmup_iterations: How often each warm-up request runs; 0 disables warm-up.
          labels_of_unavailable_versions: Whether a new label may point to a version that is not available.
        """
        self._runner, self._warmup_iterations = runner, warmup_iterations
        self._load_options, self._retries = load_options or LoadOptions(), retries or LoadRetries()
        self._any_label = labels_of_unavailable_versions
        self._configs = {config.name: config for config in configs}
        self._models = {config.name: self._served_model(config) for config in configs}
        self._labels: dict[str, dict[str, int]] = {}
        self._reloading = threading.Lock()
        self._interval_s: float | None = None

    def poll(self) -> None:
        """Polls every base path once; `status` reports versions that cannot be loaded."""
        for model in list(self._models.values()):
            model.poll()

    def watch(self, interval_s: float = 1.0) -> None:
        """Polls in one thread per model until `stop`: an unreachable base path does not delay other models."""
        self._interval_s = interval_s
        for model in list(self._models.values()):
            model.watch(interval_s)

    def stop(self) -> None:
        """Ends the polling and unloads every version."""
        for model in list(self._models.values()):
            model.stop()

    def ready(self) -> bool:
        """Whether every configured model has an available version."""
        return all(self._models[name].available() for name in list(self._configs))

    def names(self) -> list[str]:
        """Returns the names of the configured models."""
        return list(self._configs)

    def logging(self, name: str) -> LoggingConfig | None:
        """Returns the configuration of a model's request log; None without one."""
        config = self._configs.get(name)
        return config.logging if config else None

    def assign_labels(self) -> None:
        """Assigns the configuration's labels; call it once, when the first versions are loaded.

        Raises:
          RequestError: FAILED_PRECONDITION, if a label points to a version that is not available.
        """
        self._labels = self._checked_labels(list(self._configs.values()))

    def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Changes the configuration; waits until new models are loaded.

        Raises:
          RequestError: FAILED_PRECONDITION for a label to a version that is not available; nothing changes then.
            UNKNOWN if no version of a new model can be loaded.
        """
        with self._reloading:
            if not configs:
                logging.info("Taking no action for empty config.")
                return
            labels = self._checked_labels(configs)
            after = {config.name: config for config in configs}
            new = []
            for name, config in after.items():
                model = self._models.get(name)
                if model is None:
                    model = self._models[name] = self._served_model(config)
                    new.append(name)
                    if self._interval_s is not None:
                        model.watch(self._interval_s)
                elif name not in self._configs:
                    new.append(name)
                model.configure(config)
            for name in set(self._configs) - set(after):
                self._models[name].configure(None)
            before, self._configs, self._labels = self._configs, after, labels
            for name in sorted({*before, *after}):
                if before.get(name) != after.get(name):
                    self._models[name].poll()
            missing = [name for name in new if not self._models[name].available()]
            if missing:
                raise RequestError("UNKNOWN", f"Some models did not become available: {{{', '.join(missing)}}}")

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[Servable]:
        """Provides the requested version; it stays loaded inside the block.

        Raises:
          RequestError: NOT_FOUND for an unknown model or a version that is not available, INVALID_ARGUMENT for a
            label.
        """
        if label is not None:
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {label}")
        model = self._models.get(name)
        acquired = model.acquire(version) if model else None
        if model is None or acquired is None or acquired.servable is None:
            request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RequestError("NOT_FOUND", f"Servable not found for request: {request}")
        try:
            yield acquired.servable
        finally:
            model.release(acquired)

    def failed(self) -> list[tuple[str, ServedVersion]]:
        """Returns the models without an available version, each with its newest version that failed to load."""
        failures = []
        for name in list(self._configs):
            versions = self._models[name].versions()
            broken = [version for version in versions if version.state == END and version.error_code != "OK"]
            if broken and not any(version.state == AVAILABLE for version in versions):
                failures.append((name, broken[0]))
        return failures

    def status(self, name: str, version: int | None = None) -> list[ServedVersion]:
        """Returns the states of all versions, or of one.

        Raises:
          RequestError: NOT_FOUND.
        """
        model = self._models.get(name)
        versions = model.versions() if model else []
        if version is not None:
            versions = [candidate for candidate in versions if candidate.number == version]
            if not versions:
                raise RequestError("NOT_FOUND", f"Could not find version {version} of model {name}")
        if not versions:
            raise RequestError("NOT_FOUND", f"Could not find any versions of model {name}")
        return [replace(candidate, servable=None) for candidate in versions]

    def _served_model(self, config: ModelConfig) -> ServedModel:
        files = [model_versions.MODEL_FILE, *([loader.TFLITE_FILE] if self._load_options.prefer_tflite else ())]
        return ServedModel(config, self._load, self._retries, files)

    def _load(self, name: str, version: int, folder: str) -> Servable:
        started, status = time.perf_counter(), "success"
        try:
            if damage := self._damage(folder):
                raise RequestError("DATA_LOSS", f"{folder} differs from its manifest: {'; '.join(damage)}")
            options = self._load_options
            servable = Servable(name, version, loader.load(folder, options), self._runner(folder), options.max_pixels)
            try:
                if self._warmup_iterations:
                    warmup.run(servable, folder, self._warmup_iterations)
            except Exception:
                servable.close()
                raise
        except Exception:
            status = "fail"
            raise
        finally:
            monitoring.LOAD_COUNT.labels(folder, status).inc()
            monitoring.LOAD_LATENCY.labels(folder).inc((time.perf_counter() - started) * 1e6)
        return servable

    def _damage(self, folder: str) -> list[str]:
        """Compares a version with its manifest; a version may have no SavedModel if TFLite models are loaded."""
        saved_model = locations.join(folder, model_versions.MODEL_FILE)
        if self._load_options.prefer_tflite and not locations.file_system(folder).exists(saved_model):
            return []
        return model_versions.differences(folder)

    def _checked_labels(self, configs: Sequence[ModelConfig]) -> dict[str, dict[str, int]]:
        labels: dict[str, dict[str, int]] = {}
        for config in configs:
            model = self._models.get(config.name)
            available = (
                {version.number for version in model.versions() if version.state == AVAILABLE} if model else set()
            )
            for label, version in config.labels.items():
                known = self._labels.get(config.name, {}).get(label)
                if version not in available and not (self._any_label and known in (None, version)):
                    raise RequestError(
                        "FAILED_PRECONDITION",
                        f"Request to assign label to version {version} of model {config.name}, "
                        "which is not currently available for inference",
                    )
                labels.setdefault(config.name, {})[label] = version
        return labels
