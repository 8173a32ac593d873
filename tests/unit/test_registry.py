"""A package as a registry: names without imports, typed entries, informative errors."""

import sys
from dataclasses import dataclass

import pytest

from trainer_module.registry import Registry


@dataclass(frozen=True)
class Shape:
    """A kind of entry."""

    sides: int


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    package = tmp_path / "shapes"
    package.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = {"square": "SHAPE = Shape(4)", "bare": "", "number": "SHAPE = 3", "_private": "raise RuntimeError"}
    (package / "__init__.py").write_text("")
    for name, line in entries.items():
        (package / f"{name}.py").write_text(f"from {__name__} import Shape\n{line}\n")
    yield Registry("shapes", "shape", Shape)
    for module in [name for name in sys.modules if name.partition(".")[0] == "shapes"]:
        del sys.modules[module]


def test_every_file_without_underscore_is_an_entry(shapes):
    assert shapes.names() == ["bare", "number", "square"]
    assert not [name for name in sys.modules if name.startswith("shapes.")]  # `names` does not import entries


def test_the_entry_is_the_typed_object_of_its_file(shapes):
    assert shapes.get("square") == Shape(4)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("circle", ValueError, r"^Unknown shape 'circle'\. Known shapes: bare, number, square\.$"),
        (
            "sqare",
            ValueError,
            r"^Unknown shape 'sqare'\. Did you mean `square`\? Known shapes: bare, number, square\.$",
        ),
        ("_private", ValueError, "Unknown shape '_private'"),
        ("bare", TypeError, r"shapes/bare\.py must define SHAPE, an instance of Shape; SHAPE is not defined\."),
        ("number", TypeError, r"shapes/number\.py must define SHAPE, an instance of Shape; SHAPE is int\."),
    ],
)
def test_errors_list_the_known_entries_and_the_missing_object(shapes, name, error, message):
    with pytest.raises(error, match=message):
        shapes.get(name)
