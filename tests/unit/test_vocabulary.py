"""Names in code are nouns of the field, and docstrings open with a verb or a noun."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"found", "said", "told", "held", "what", "thing", "whom"}
# In the place of the noun that a sentence is about.
OPENINGS = {"What", "Of", "Whose", "Where", "Which", "Who", "Those"}
FOLDERS = ("components", "pipeline", "serving", "tests", "trainer_module")


def nodes_of(source):
    """Lists all nodes of a program; to walk a tree takes as long as to parse it."""
    return list(ast.walk(ast.parse(source)))


def bound_names(nodes):
    """Yields the line and the name of every assignment, argument, function, class, import and exception."""
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.alias(name=name, asname=asname):
                yield node.lineno, asname or name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name


def forbidden_names(nodes):
    """Yields the line and the name of every binding of a forbidden name."""
    return ((line, name) for line, name in bound_names(nodes) if name.strip("_") in FORBIDDEN)


def forbidden_openings(nodes):
    """Yields the line and the first word of every docstring, also of attributes, with a forbidden first word."""
    for node in nodes:
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))) if text.strip():
                if (word := text.split()[0]) in OPENINGS:
                    yield node.lineno, word


def test_no_file_violates_the_rules():
    files = [path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert {file.parts[0] for file in files} == set(FOLDERS)
    violations = []
    for file in files:
        nodes = nodes_of((ROOT / file).read_text(encoding="utf-8"))
        violations += [f"{file}:{line}: {word}" for line, word in (*forbidden_names(nodes), *forbidden_openings(nodes))]
    assert violations == []


@pytest.mark.parametrize(
    "source", ['"""What a file is."""', 'def f():\n    """Of a run."""', 'class A:\n    x: int\n    """Where it is."""']
)
def test_docstrings_of_every_kind_are_checked(source):
    assert list(forbidden_openings(nodes_of(source)))


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
    assert list(forbidden_names(nodes_of(source)))
