"""Names in code are nouns of the field: no variable, argument or function has an unspecific name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"found", "said", "told", "held", "what", "thing", "whom"}
FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("components", "pipeline", "serving", "tests", "trainer_module")
    for path in (ROOT / folder).rglob("*.py")
)


def bound_names(source):
    """Yields the line and the name of every assignment, argument, function, class, import and exception."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.alias(name=name, asname=asname):
                yield node.lineno, asname or name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name


def forbidden_names(file):
    source = (ROOT / file).read_text(encoding="utf-8")
    return [f"{file}:{line}: {name}" for line, name in bound_names(source) if name.strip("_") in FORBIDDEN]


@pytest.mark.parametrize("file", FILES)
def test_no_forbidden_name_is_bound(file):
    assert forbidden_names(file) == []


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "def f(found): pass",
        "def found(): pass",
        "for found in (): pass",
        "if (found := 1): pass",
        "self.found = 1",
        "import x as found",
        "[found for found in ()]",
        "lambda found: 0",
        "_found = 1",
    ],
)
def test_bindings_of_every_kind_are_checked(source):
    assert [name for _, name in bound_names(source) if name.strip("_") in FORBIDDEN]
