"""The JSON that commands print, and its published schemas; `pytest --update-goldens` writes the schemas."""

import json
import math
from importlib import resources

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import json_output
from pipeline.cli.app import app

SCHEMAS = resources.files("pipeline.cli") / "schemas"


@pytest.mark.parametrize("command", json_output.OUTPUTS)
def test_the_published_schema_is_that_of_the_model(command, request):
    path = SCHEMAS / f"{command}.schema.json"
    if request.config.getoption("--update-goldens"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json_output.schema(command))
    assert path.read_text() == json_output.schema(command)


def test_every_command_with_json_has_a_schema():
    commands = typer.main.get_command(app).commands
    with_json = {
        name for name, command in commands.items() if any("--json" in option.opts for option in command.params)
    }
    assert with_json == set(json_output.OUTPUTS)
    assert {entry.name for entry in SCHEMAS.iterdir()} == {f"{name}.schema.json" for name in with_json}


def test_schemas_describe_every_key():
    for command in json_output.OUTPUTS:
        schema = json.loads(json_output.schema(command))
        assert schema["title"] == f"{command.capitalize()}Output" and schema["description"]
        for part in schema.get("$defs", {}).values():
            assert part["description"] and "additionalProperties" not in part


def test_the_command_prints_a_schema():
    done = CliRunner().invoke(app, ["schema", "run"])
    assert json.loads(done.stdout) == json.loads((SCHEMAS / "run.schema.json").read_text())
    assert CliRunner().invoke(app, ["schema"]).stdout.split() == sorted(json_output.OUTPUTS)
    refused = CliRunner().invoke(app, ["schema", "histor"])
    assert refused.exit_code == 2 and "`histor` has no --json. Did you mean `history`?" in refused.stderr


def test_an_undefined_number_is_null():
    shown = json_output.Difference(first=math.nan, second=0.5, change=math.inf, better=None)
    assert shown.as_text() == '{"first": null, "second": 0.5, "change": null, "better": null}'
