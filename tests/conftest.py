"""What the tests share. The folder of a test is its marker."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trainer_module  # noqa: F401  (says which Keras before anything imports TensorFlow)

_TESTS = Path(__file__).parent
_FOLDERS = ("unit", "component", "pipeline", "e2e", "bench")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test with the name of its folder."""
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        if folder in _FOLDERS:
            item.add_marker(getattr(pytest.mark, folder))


def encode(pixels: np.ndarray, format_: str = "PNG") -> bytes:
    """Encodes uint8 [h, w] or [h, w, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format_)
    return buffer.getvalue()


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(7)


@pytest.fixture
def picture_bytes(rng: np.random.Generator) -> Callable[..., bytes]:
    """Makes the bytes of a random picture."""

    def make(height: int = 12, width: int = 10, format_: str = "PNG", channels: int = 3) -> bytes:
        shape = (height, width) if channels == 1 else (height, width, channels)
        return encode(rng.integers(0, 256, shape, dtype=np.uint8), format_)

    return make


@pytest.fixture
def class_folders(tmp_path: Path, picture_bytes: Callable[..., bytes]) -> Callable[..., Path]:
    """Writes class folders of random pictures: class (or split/class) → number of pictures."""

    def make(counts: dict[str, int], name: str = "pictures") -> Path:
        root = tmp_path / name
        root.mkdir()
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for index in range(count):
                (root / folder / f"{index}.png").write_bytes(picture_bytes())
        return root

    return make
