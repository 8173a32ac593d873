"""Operations that are not part of TensorFlow but of a Python package: tensorflow_text."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable
from pathlib import Path

from serving.local_server.errors import RequestError

PACKAGE, EXTRA = "tensorflow_text", "text"
# TF Serving contains the operations of tensorflow_text only (model_servers/BUILD, SUPPORTED_TENSORFLOW_OPS).
_MISSING = re.compile(r"Op type not registered '([^']+)'")


def loading(load: Callable[[], None], load_library: Callable[[Path], None]) -> None:
    """Loads a model; if an operation is not registered, loads those of tensorflow_text and tries again.

    Args:
      load: Loads the model.
      load_library: Registers the operations of a shared library.

    Raises:
      RequestError: From `load`; it names the missing package if an operation is not registered.
    """
    try:
        load()
    except RequestError as error:
        missing = _MISSING.search(error.message)
        if not missing:
            raise
        libraries = _libraries()
        if not libraries:
            raise RequestError(
                "NOT_FOUND",
                f"The model has the operation {missing[1]}, which is not part of TensorFlow. If it is one of "
                f'{PACKAGE}, install that package: pip install "tfx-vision[{EXTRA}]". ({error.message})',
            ) from None
        for path in libraries:
            logging.info("Loading the operations in %s", path)
            load_library(path)
        load()


def _libraries() -> list[Path]:
    """Returns the shared libraries with the operations of tensorflow_text; none if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return sorted(path for folder in folders for path in Path(folder).glob("python/**/_*.so"))
