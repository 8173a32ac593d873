"""Files that components store: written, read back, and refused when another version wrote them."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Literal

import pydantic
import pytest

import components
from components.stored import IncompatibleArtifactError, Stored, StoredPart
from trainer_module import locations

pytestmark = pytest.mark.unit


class Cell(StoredPart):
    """A part of the file."""

    value: float | None


class Sheet(Stored):
    """A file of format 2."""

    FILE: ClassVar[str] = "sheet.json"
    format: Literal[2] = 2
    cells: tuple[Cell, ...]


def test_a_file_is_read_as_it_was_written(tmp_path):
    sheet = Sheet(cells=(Cell(value=0.5), Cell(value=None)))
    sheet.write(str(tmp_path))
    assert json.loads((tmp_path / "sheet.json").read_text()) == {
        "format": 2,
        "cells": [{"value": 0.5}, {"value": None}],
    }
    assert Sheet.read(str(tmp_path)) == sheet
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        sheet.cells = ()


def test_a_remote_file_too():
    sheet = Sheet(cells=())
    locations.file_system("ram://stored").makedirs("ram://stored/sheet")
    sheet.write("ram://stored/sheet")
    assert Sheet.read("ram://stored/sheet") == sheet


def test_a_file_that_cannot_be_replaced_remains(tmp_path, monkeypatch):
    old, new = Sheet(cells=()), Sheet(cells=(Cell(value=1.0),))
    old.write(str(tmp_path))
    with open(tmp_path / "sheet.json", "rb") as reader:
        new.write(str(tmp_path))
        assert b"1.0" not in reader.read()
    monkeypatch.setattr(os, "replace", lambda *paths: os.open("/proc/self/missing", os.O_RDONLY))
    with pytest.raises(FileNotFoundError) as raised:
        old.write(str(tmp_path))
    assert raised.value.filename == f"{tmp_path}/sheet.json"
    assert os.listdir(tmp_path) == ["sheet.json"] and Sheet.read(str(tmp_path)) == new


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_json_does_not_have_is_null(tmp_path, value):
    Sheet(cells=(Cell(value=value),)).write(str(tmp_path))
    assert Sheet.read(str(tmp_path)).cells[0].value is None


@pytest.mark.parametrize(
    ("content", "difference"),
    [
        ('{"format": 3, "cells": []}', "its format is 3, expected 2"),
        ('[{"value": 1}]', "its format is none, expected 2"),
        ('{"cells": []}', "its format is none, expected 2"),
        ('{"format": 2, "cells": [{"value": "high"}]}', "cells.0.value: Input should be a valid number"),
        ('{"format": 2, "cells": [], "rows": []}', "rows: Extra inputs are not permitted"),
        ('{"format": 2, "cel', "Unterminated string starting at"),
    ],
)
def test_a_file_of_another_version_is_one_clear_error(tmp_path, content, difference):
    (tmp_path / "sheet.json").write_text(content)
    with pytest.raises(IncompatibleArtifactError) as raised:
        Sheet.read(str(tmp_path))
    message = str(raised.value)
    assert message.startswith(f"{tmp_path}/sheet.json cannot be read by this version of tfx-vision: {difference}")
    assert message.endswith("Run the pipeline again to write a new one, or read it with the version that wrote it.")


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sheet\.json"):
        Sheet.read(str(tmp_path))


def test_artifacts_are_read_without_tfx_and_tensorflow():
    folder = Path(components.__file__).parent
    modules = [
        "components.stored",
        *(f"components.{path.parent.name}.artifact" for path in folder.glob("*/artifact.py")),
    ]
    code = (
        f"import sys, {', '.join(modules)}\n"
        "print([name for name in ('tfx', 'tensorflow', 'keras', 'apache_beam') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(modules) > 1 and done.stdout.strip() == "[]"
