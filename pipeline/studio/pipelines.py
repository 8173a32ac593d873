"""The pipelines that the studio shows: those of the given configurations, and all below a root folder."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.config.sections import METADATA_FILE, PipelineConfig
from pipeline.execution import run_lock
from pipeline.execution.run_lock import RUN_LOCK_FILE
from pipeline.history import run_history
from pipeline.history.run_history import Run, Runs
from pipeline.studio.options import StudioOptions

# Pipelines may be grouped in folders below the root.
_PATTERNS = ("*", "*/*")
# Folders are not listed again for every image of a page.
_FRESH_S = 1.0


@dataclass(frozen=True)
class StudioPipeline:
    """A pipeline.

    Attributes:
      name: Unique on the page.
      config: Its configuration; of the one that has no given one, that of its last report.
    """

    name: str
    config: PipelineConfig

    @property
    def folder(self) -> Path:
        """The studio's own files of this pipeline."""
        return self.config.run_dir / "studio"

    @property
    def has_runs(self) -> bool:
        """Whether it has a run history."""
        return self.config.metadata_path.is_file()

    def runs(self) -> Runs:
        """Opens the run history; ConfigError if there is none or it cannot be read."""
        return run_history.read(self.config)

    def newest_run(self) -> Run | None:
        """Reads the last run; None if there is none."""
        return next(iter(self.runs().newest(1)), None) if self.has_runs else None

    def is_running(self) -> bool:
        """Whether a process of this machine runs the pipeline."""
        return run_lock.is_running(self.config.run_dir)


class Pipelines:
    """Finds pipelines; a new one below the root appears without a restart."""

    def __init__(self, options: StudioOptions) -> None:
        """Takes the options."""
        self._options = options
        self._stored: dict[Path, tuple[float, PipelineConfig]] = {}
        self._listed: tuple[float, list[StudioPipeline]] = (-math.inf, [])

    def all(self) -> list[StudioPipeline]:
        """Returns all pipelines: the configured ones first, then those below the root by name."""
        if time.monotonic() - self._listed[0] > _FRESH_S:
            self._listed = (time.monotonic(), self._list())
        return self._listed[1]

    def get(self, name: str) -> StudioPipeline | None:
        """Returns the pipeline of this name; None if there is none."""
        return next((pipeline for pipeline in self.all() if pipeline.name == name), None)

    def _list(self) -> list[StudioPipeline]:
        configs = {config.run_dir: config for config in self._options.configs}
        for run_dir in self._folders():
            if run_dir not in configs:
                configs[run_dir] = self._config_of(run_dir)
        pipelines = list[StudioPipeline]()
        names = set[str]()
        for config in configs.values():
            name, number = config.pipeline.name, 2
            while name in names:
                name, number = f"{config.pipeline.name}-{number}", number + 1
            names.add(name)
            pipelines.append(StudioPipeline(name, config))
        return pipelines

    def _folders(self) -> list[Path]:
        root = self._options.root
        if root is None or not root.is_dir():
            return []
        candidates = [path for pattern in _PATTERNS for path in root.glob(pattern)]
        return sorted(
            path.absolute()
            for path in candidates
            if (path / METADATA_FILE).is_file() or (path / RUN_LOCK_FILE).is_file()
        )

    def _config_of(self, run_dir: Path) -> PipelineConfig:
        """Reads the configuration of the last report, which contains all of it; the defaults if there is none."""
        metadata = run_dir / METADATA_FILE
        changed = metadata.stat().st_mtime if metadata.is_file() else 0.0
        known = self._stored.get(run_dir)
        if known is not None and known[0] == changed:
            return known[1]
        config = _stored_config(metadata) or PipelineConfig.model_validate({}, context={"needs_data": False})
        section = config.pipeline.model_copy(update={"root": run_dir.parent, "name": run_dir.name})
        config = config.model_copy(update={"pipeline": section})
        self._stored[run_dir] = (changed, config)
        return config


def _stored_config(metadata: Path) -> PipelineConfig | None:
    try:
        text = Runs(metadata).parameter("ModelReport", "configuration") if metadata.is_file() else None
        return loading.from_toml(text) if text else None
    except ConfigError:
        return None
