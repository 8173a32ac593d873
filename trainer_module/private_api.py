"""Private API of other packages: the releases with which it is used, and what runs with others.

Private names may change in any release. Code that uses them is prepared with `prepare`, which returns None if the
installed releases are others or a name is missing; the caller then uses public API only.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

Prepared = TypeVar("Prepared")


class PrivateApi(NamedTuple):
    """A use of private API.

    Attributes:
      module: The module of this project that uses it.
      releases: Package → supported release series, `major.minor`.
      fallback: What runs instead.
    """

    module: str
    releases: Mapping[str, str]
    fallback: str


TRANSFORM = PrivateApi(
    "components.transform.single_pass", {"tfx": "1.21", "tensorflow-transform": "1.21"}, "TFX's Transform executor"
)
STATISTICS = PrivateApi(
    "components.statistics_gen.single_pass",
    {"tfx": "1.21", "tensorflow-data-validation": "1.21", "tfx-bsl": "1.21"},
    "TFX's StatisticsGen executor",
)
PROFILER = PrivateApi("serving.local_server.profiler", {"tensorflow": "2.21"}, "an error for every capture")
MULTI_WORKER_FIT = PrivateApi("trainer_module.distribution", {"keras": "3.15"}, "Keras's fit as it is")


def prepare(api: PrivateApi, function: Callable[[], Prepared]) -> Prepared | None:
    """Calls a function that uses private API, if the installed releases are supported.

    Args:
      api: The use.
      function: Imports and resolves every private name.

    Returns:
      The function's result. None if a release is not supported or a name is missing, which is logged in one line.
    """
    installed = {package: importlib.metadata.version(package) for package in api.releases}
    differing = [
        f"{package} {version} (supported: {api.releases[package]})"
        for package, version in installed.items()
        if version.split(".")[:2] != api.releases[package].split(".")
    ]
    if not differing:
        try:
            return function()
        except (ImportError, AttributeError, TypeError) as error:  # renamed, moved, or with other arguments
            differing = [f"{type(error).__name__}: {error}"]
    logging.warning("%s is not used, %s runs instead: %s.", api.module, api.fallback, "; ".join(differing))
    return None
