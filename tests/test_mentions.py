"""What messages and documents tell people to type exists: commands, their options, functions of the public classes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import repertory
from examples.banking.__main__ import app as banking
from repertory import ActorSystem, Client, Context, Running, SagaContext
from repertory.cli.app import app
from tests.support.paths import ROOT
from tests.test_tidy import EVERYWHERE, sources

DOCUMENTS = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
#: Words that follow the name of the project in a sentence about it.
PROSE = {"and", "company", "could", "import", "knows", "log", "needs", "sets", "that"}
#: Of Kafka's own commands, which a message or a document shows.
KAFKA = {
    "--add-config", "--alter", "--bootstrap-server", "--entity-name", "--entity-type", "--partition", "--topic"
}  # fmt: skip
#: A call on one of these, as a message writes it, is of this class.
CLASSES: dict[str, tuple[type, ...]] = {
    "system": (ActorSystem,), "client": (Client,), "running": (Running,), "ctx": (Context, SagaContext)
}  # fmt: skip

_COMMAND = re.compile(r"(?<![\w./`-])repertory ([a-z][\w|-]*)(?: ([a-z][\w|-]*))?")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_CALL = re.compile(rf"(?<![\w.])({'|'.join(CLASSES)})\.(\w+)\(")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Yield each command with its options."""
    options = {option for each in group.params for option in (*each.opts, *each.secondary_opts)}
    yield path, {*options, "--help"}
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))
OPTIONS = set().union(*COMMANDS.values())


@cache
def modules() -> list[tuple[str, ast.Module]]:
    """Return all modules; read once."""
    return [(path, tree) for path, tree, _ in sources(*EVERYWHERE)]


@cache
def ours() -> set[str]:
    """Return the options of our long runs and measurements, which documents name without their program."""
    found = set()
    for path in [*(ROOT / "tests" / "campaigns").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        found |= set(re.findall(r"\"(--[a-z-]+)\"", path.read_text(encoding="utf-8")))
    return found


def docstrings(tree: ast.Module) -> dict[int, str]:
    """Return the docstrings of a module by the identity of their nodes."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            statement = node.body[0]
            assert isinstance(statement, ast.Expr)
            assert isinstance(statement.value, ast.Constant)
            found[id(statement.value)] = str(statement.value.value)
    return found


def messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module that are no docstrings, with their lines. What is filled in is ``…``."""
    skipped = set(docstrings(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values),
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def snippets(text: str) -> Iterator[str]:
    """Yield what reStructuredText marks as literal: between backticks, and each line of an indented block."""
    yield from (re.sub(r"\s+", " ", found) for found in re.findall(r"``(.+?)``", text, re.DOTALL))
    yield from re.findall(r"^    +(.*)$", text, re.MULTILINE)


def _paths(first: str, second: str) -> Iterator[tuple[str, ...]]:
    """Yield the commands that ``repertory FIRST SECOND`` names, where ``a|b`` names two."""
    for name in first.split("|"):
        if any(path[:1] == (name,) for path in COMMANDS if path[1:]) and second not in {"", *PROSE}:
            yield from ((name, part) for part in second.split("|"))
        else:
            yield (name,)


def wrong_commands(text: str) -> list[str]:
    """Return what a text tells to type, and is neither a command nor, after it, an option of that command."""
    wrong = []
    found = list(_COMMAND.finditer(text))
    for match, end in zip(found, [*(each.start() for each in found[1:]), len(text)], strict=False):
        paths = list(_paths(match[1], match[2] or ""))
        wrong += [" ".join(path) for path in paths if path not in COMMANDS and not PROSE.issuperset(path)]
        options = set().union(*(COMMANDS.get(path, OPTIONS) for path in paths))
        given = _OPTION.findall(text[match.end() : end])
        wrong += [f"{match[1]} {option}" for option in given if option not in options]
    return wrong


def test_messages_name_commands_and_options_that_exist() -> None:
    """Whoever types what a message of the package says gets what it promises."""
    for path, tree in modules():
        known = OPTIONS | KAFKA
        if path.startswith("examples"):
            known = known | set().union(*dict(commands(typer.main.get_command(banking))).values())
        for line, text in messages(tree):
            if _OPTION.fullmatch(text):  # Where it is defined, or passed on.
                continue
            wrong = [option for option in _OPTION.findall(text) if option not in known]
            assert not wrong, f"{path}:{line} names {wrong[0]}, and there is no such option: {text!r}"
            wrong = wrong_commands(text)
            assert not wrong, f"{path}:{line} names what is no command: {wrong[0]}"
            for owner, name in re.findall(r"`(parked|dead-letters) (\w+)`", text):
                assert (owner, name) in COMMANDS, f"{path}:{line} names {owner} {name}"


def test_messages_name_functions_that_exist() -> None:
    """``system.start()`` in a message is a method of ``ActorSystem``, and so on for what users hold in their hands."""
    for path, tree in modules():
        for line, text in [*messages(tree), *((1, docstring) for docstring in docstrings(tree).values())]:
            for owner, name in _CALL.findall(text):
                assert any(hasattr(each, name) for each in CLASSES[owner]), f"{path}:{line} names {owner}.{name}()"
            for name in re.findall(r"\brepertory\.(\w+)\(", text):
                assert hasattr(repertory, name), f"{path}:{line} names repertory.{name}()"


def test_docstrings_name_commands_that_exist() -> None:
    """The same between the backticks of docstrings."""
    for path, tree in modules():
        for text in docstrings(tree).values():
            wrong = [each for snippet in re.findall(r"``(.+?)``", text, re.DOTALL) for each in wrong_commands(snippet)]
            assert not wrong, f"{path} names what is no command: {wrong[0]}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_and_options_that_exist(path: Path) -> None:
    """The same in all that a document marks as literal."""
    for snippet in snippets(path.read_text(encoding="utf-8")):
        wrong = wrong_commands(snippet)
        assert not wrong, f"{path.name} names what is no command: {wrong[0]}"
        if not re.search(r"python|pytest|kafka-|make |pip ", snippet) and not snippet.strip().startswith(".."):
            wrong = [option for option in _OPTION.findall(snippet) if option not in OPTIONS | ours()]
            assert not wrong, f"{path.name} names {wrong[0]}, and there is no such option: {snippet}"


def test_the_check_itself_finds_what_is_wrong() -> None:
    """A command that was renamed, an option of another command, and a group without its subcommand's name."""
    assert wrong_commands("repertory topic shows them") == ["topic"]
    assert wrong_commands("run: repertory run a:b --log x --seeds 3") == ["run --seeds"]
    assert wrong_commands("repertory parked list|skip bank:system") == ["parked skip"]
    assert wrong_commands("repertory parked list bank:system --log URL; repertory simulate x --seeds 3") == []
    assert wrong_commands("the repertory that made it") == []
