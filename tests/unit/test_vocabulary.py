"""Names in code are nouns of the field, and docstrings open with a verb or a noun."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"found", "said", "told", "held", "what", "thing", "whom"}
# In the place of the noun that a sentence is about.
OPENINGS = {"What", "Of", "Whose", "Where", "Which", "Who", "Those"}
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


def opening_words(source):
    """Yields the line and the first word of every docstring, also of attributes."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))) if text.strip():
                yield node.lineno, text.split()[0]


@pytest.mark.parametrize("file", FILES)
def test_docstrings_open_with_a_verb_or_a_noun(file):
    words = opening_words((ROOT / file).read_text(encoding="utf-8"))
    assert [f"{file}:{line}: {word}" for line, word in words if word in OPENINGS] == []


@pytest.mark.parametrize(
    "source", ['"""What a file is."""', 'def f():\n    """Of a run."""', 'class A:\n    x: int\n    """Where it is."""']
)
def test_docstrings_of_every_kind_are_checked(source):
    assert [word for _, word in opening_words(source) if word in OPENINGS]


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
