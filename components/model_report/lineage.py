"""Lineage of a model: artifacts, data, code and package versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from tfx import types

_PACKAGES = (
    "tfx-vision",
    "tfx",
    "tensorflow",
    "keras",
    "tensorflow-transform",
    "tensorflow-model-analysis",
    "tensorflow-data-validation",
    "apache-beam",
    "ml-metadata",
)


def describe(artifact: types.Artifact) -> str:
    """Returns an artifact's id in ML Metadata, its time and its URI."""
    created = artifact.mlmd_artifact.create_time_since_epoch
    moment = datetime.datetime.fromtimestamp(created / 1000, datetime.UTC)
    time = moment.strftime(", %Y-%m-%d %H:%M UTC") if created else ""
    return f"artifact {artifact.id}{time}: {artifact.uri}"


def rows(
    artifacts: Mapping[str, types.Artifact], exec_properties: Mapping[str, Any], run_id: str
) -> list[tuple[str, str]]:
    """Lists the names and values of the lineage, without those that are unknown.

    Args:
      artifacts: The inputs of ModelReport by their keys.
      exec_properties: `data_fingerprint` and `source_hash` are read.
      run_id: Of the pipeline run; empty if unknown.
    """
    examples, baseline = artifacts["examples"], artifacts.get("baseline_model")
    values = [
        ("Model", describe(artifacts["model"])),
        ("Baseline", describe(baseline) if baseline else "none"),
        ("Training", describe(artifacts["model_run"])),
        ("Examples", describe(examples)),
        ("Span", str(examples.span) if examples.span else ""),
        ("Data fingerprint", exec_properties["data_fingerprint"]),
        ("Evaluation", describe(artifacts["evaluation"])),
        ("Code", exec_properties["source_hash"]),
        ("Pipeline run", run_id),
    ]
    return [(name, value) for name, value in values if value]


def versions() -> list[tuple[str, str]]:
    """Lists the versions of the installed packages and of Python."""
    return [*((name, importlib.metadata.version(name)) for name in _PACKAGES), ("python", platform.python_version())]
