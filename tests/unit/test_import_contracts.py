"""The contracts of import-linter speak of all modules."""

import pkgutil
import tomllib
from pathlib import Path

import trainer_module

_PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_only_the_hooks_may_import_tfx():
    contracts = tomllib.loads(_PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if "hooks" in contract["name"]]
    modules = {f"trainer_module.{module.name}" for module in pkgutil.iter_modules(trainer_module.__path__)}
    assert contract["source_modules"] == sorted(modules - {"trainer_module.hooks"})
