"""`tfx-vision rollback`: its output and its effect."""

import json

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app


@pytest.fixture
def base(tmp_path):
    """A folder with two versions, as Pusher writes them."""
    folder = tmp_path / "runs/digits/serving/digits"
    for version in (100, 200):
        (folder / str(version)).mkdir(parents=True)
        (folder / str(version) / "saved_model.pb").touch()
    return folder


@pytest.fixture
def rollback(tmp_path):
    def run(*arguments):
        root = f"pipeline.root={tmp_path / 'runs'}"
        return CliRunner().invoke(app, ["rollback", "digits", "--set", root, *arguments])

    return run


def test_rolling_back_and_forth(rollback, base):
    done = rollback()
    assert done.exit_code == 0
    assert done.stdout == (
        f"Version 100 is the newest in {base}; withdrawn: 200. Model servers switch to it by themselves.\n"
    )
    assert sorted(path.name for path in base.iterdir()) == ["100", "withdrawn-200"]
    done = rollback("--to", "200", "--json")
    assert json.loads(done.stdout) == {"base_path": str(base), "served": [200, 100], "withdrawn": []}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--to", "7"), 1, "does not contain version 7. It contains 200, 100."),
        (("--set", "pipeline.root=/nowhere"), 1, "contains no version: there is no earlier version to roll back to."),
        (("--set", "serving.keep_versions=1"), 2, "serving.keep_versions"),
    ],
)
def test_errors_are_one_message(rollback, base, arguments, code, words):
    done = rollback(*arguments)
    assert done.exit_code == code and done.stdout == ""
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert sorted(path.name for path in base.iterdir()) == ["100", "200"]
