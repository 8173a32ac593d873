"""The tables of docs/configuration.md against the configuration; `pytest --update-goldens` writes the tables."""

import json
import re
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from components.image_example_gen.options import SplitOptions
from pipeline.config.sections import PipelineConfig
from trainer_module import models, tasks
from trainer_module.search_space import Range

REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"
TABLE = re.compile(r"\| key \| default \| \|\n\|---\|---\|---\|\n(?P<rows>(?:\|.*\|\n)*)")
# The nearest line before a table that starts with a name decides its section: `[data.splits]`, `name = "unet"`.
NAME = re.compile(r'^(?:#+ )?(?:`\[+(?P<section>[\w.<>]+)\]+`|`name = "(?P<entry>[a-z_]+)"`)', re.MULTILINE)


def models_in(annotation) -> list[type[BaseModel]]:
    """Pydantic models in a type such as `dict[str, Options] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def section_class(name: str) -> type[BaseModel]:
    section: type[BaseModel] = PipelineConfig
    for part in name.split("."):
        if part in section.model_fields:  # otherwise a name that the user chooses, as in `kubeflow.nodes.<node>`
            (section,) = models_in(section.model_fields[part].annotation)
    return section


def default_text(field) -> str:
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Path):
        default = str(default)
    if default is PydanticUndefined:
        return "(required)"
    if default is None:
        return "absent"
    if isinstance(default, str) and default:
        return f"`{default}`"
    return f"`{json.dumps(default, default=lambda value: value.model_dump(exclude_none=True), ensure_ascii=False)}`"


def rows_of(section: type[BaseModel]) -> str:
    lines = [
        f"| `{key}` | {default_text(field)} | {field.description} |\n"
        for key, field in section.model_fields.items()
        if field.description  # sections have tables of their own
    ]
    return "".join(lines)


def tables() -> list[tuple[str, str, type[BaseModel]]]:
    """(name, rows in the document, section) of every table."""
    text, documented = REFERENCE.read_text(encoding="utf-8"), []
    for table in TABLE.finditer(text):
        *_, name = NAME.finditer(text, 0, table.start())
        *_, heading = re.finditer(r"^## `\[(\w+)", text[: table.start()], re.MULTILINE)
        if entry := name["entry"]:
            registry = {"model": models.get, "task": tasks.get}[heading[1]]
            record = registry(entry)
            documented.append((entry, table["rows"], record.options))
        else:
            documented.append((name["section"], table["rows"], section_class(name["section"])))
    return documented


def test_every_table_is_that_of_the_configuration(request):
    text = REFERENCE.read_text(encoding="utf-8")
    for _, rows, section in tables():
        text = text.replace(rows, rows_of(section), 1) if request.config.getoption("--update-goldens") else text
    if request.config.getoption("--update-goldens"):
        REFERENCE.write_text(text, encoding="utf-8")
    for name, rows, section in tables():
        assert rows == rows_of(section), f"{name}: run pytest {Path(__file__).name} --update-goldens"


def test_every_section_has_a_table():
    documented = [section for *_, section in tables()]
    for name, field in PipelineConfig.model_fields.items():
        for section in models_in(field.annotation):
            if name not in ("model", "task"):
                assert section in documented, name
    assert {models.get(name).options for name in models.names()} <= set(documented)
    assert {tasks.get(name).options for name in tasks.names()} <= set(documented)


@pytest.mark.parametrize("section", [SplitOptions, Range])
def test_sections_within_sections_are_found(section):
    assert section in [documented for *_, documented in tables()]
