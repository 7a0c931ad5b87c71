"""The examples use only the public API, because users copy them."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PUBLIC = (
    "repertory", "repertory.gateway", "repertory.projections", "repertory.simulation", "repertory.verify",
)  # fmt: skip
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


def imported(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Yield each import of a module as the module and the name that is taken from it, None for the module itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def refusals(source: str) -> list[str]:
    """Return the imports of ``repertory`` in a module that are not public."""
    found = []
    for module, name in imported(ast.parse(source)):
        if module.split(".")[0] != "repertory":
            continue
        if module not in PUBLIC:
            found.append(module)
        elif (
            name is not None
            and f"{module}.{name}" not in PUBLIC
            and name not in importlib.import_module(module).__all__
        ):
            found.append(f"{module}.{name}")
    return found


def test_there_are_examples() -> None:
    """Without examples, the test below would check nothing."""
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_an_example_imports_only_public_names(path: Path) -> None:
    """An example imports only names in ``__all__`` of a public module; see the docstring of ``repertory``."""
    assert refusals(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import repertory", []),
        ("import repertory.verify", []),
        ("from repertory import simulation, Entity", []),
        ("from repertory.verify import Reader, Record", []),
        ("import repertory.bridge.topics", ["repertory.bridge.topics"]),
        ("from repertory import bridge", ["repertory.bridge"]),
        ("from repertory.verify import gather", ["repertory.verify.gather"]),
        ("def late():\n    from repertory.actors.message import Message", ["repertory.actors.message"]),
    ],
)
def test_imports_that_are_not_public_are_found(source: str, found: list[str]) -> None:
    """Internal modules are found however, and wherever in a module, they are imported."""
    assert refusals(source) == found


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_can_be_imported(module: str) -> None:
    """Each name in ``__all__`` exists, also those that are imported on first use."""
    public = importlib.import_module(module)
    assert [name for name in public.__all__ if getattr(public, name, None) is None] == []
