"""`tfx-vision rollback`: what it says, and what it changes."""

import json

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app


@pytest.fixture
def base(tmp_path):
    """Two versions, as Pusher would have left them."""
    folder = tmp_path / "runs/digits/serving/digits"
    for version in (100, 200):
        (folder / str(version)).mkdir(parents=True)
        (folder / str(version) / "saved_model.pb").touch()
    return folder


@pytest.fixture
def rollback(tmp_path):
    def run(*arguments):
        where = f"pipeline.root={tmp_path / 'runs'}"
        return CliRunner().invoke(app, ["rollback", "digits", "--set", where, *arguments])

    return run


def test_the_version_before_and_back_again(rollback, base):
    done = rollback()
    assert done.exit_code == 0
    assert done.stdout == (
        f"Version 100 is the newest in {base}; put aside: 200. Model servers change over by themselves.\n"
    )
    assert sorted(path.name for path in base.iterdir()) == ["100", "withdrawn-200"]
    done = rollback("--to", "200", "--json")
    assert json.loads(done.stdout) == {"base_path": str(base), "served": [200, 100], "withdrawn": []}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--to", "7"), 1, "holds no version 7. It holds 200, 100."),
        (("--set", "pipeline.root=/nowhere"), 1, "holds no version: there is no version before it to go back to."),
        (("--set", "serving.keep_versions=1"), 2, "serving.keep_versions"),
    ],
)
def test_mistakes_are_one_message(rollback, base, arguments, code, words):
    done = rollback(*arguments)
    assert done.exit_code == code and done.stdout == ""
    assert done.stderr.startswith("error: ") and words in done.stderr
    assert sorted(path.name for path in base.iterdir()) == ["100", "200"]
