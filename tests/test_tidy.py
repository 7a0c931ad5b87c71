"""The rules of the house, run as a test: layers, third parties, sizes, and what pure modules may not do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("actors", "bridge", "supervision")
LAYERS = {"supervision": 0, "actors": 1, "bridge": 2, "examples": 3, "benchmarks": 3}

#: Who alone may import a third party, and why it is worth a rule: each is a world of its own to isolate.
HOMES = {
    "confluent_kafka": re.compile(r"bridge/kafka/.*|benchmarks/.*"),
    "sqlite3": re.compile(r"bridge/embedded\.py"),
    "thespian": re.compile(r"(supervision|bridge)/process\.py|supervision/transport\.py"),
}

#: Not pure: they start processes, talk to them, or are the threads in them.
SHELL = {"process.py", "transport.py", "node.py", "host.py", "lineage.py", "work.py"}
IMPURE = {"time", "random", "logging", "threading", "subprocess", "socket", "os", "uuid", "secrets", "asyncio"}
#: A generator seeded from a command's cause draws the same every time.
SEEDED = {"actors/context.py": {"random"}}

MODULE_LINES_MAX, ADAPTER_LINES_MAX, FUNCTION_LINES_MAX = 250, 400, 60
ADAPTERS = re.compile(
    r"bridge/(kafka/.*|embedded.*|cli.*)\.py|supervision/(process|transport)\.py|examples/.*|actors/shard\.py"
)


def sources(*folders: str) -> Iterator[tuple[str, ast.Module, str]]:
    """Yield path, syntax tree and text of every module."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            yield path.relative_to(ROOT).as_posix(), ast.parse(text), text


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that a module imports, under whatever condition."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def code_lines(text: str) -> int:
    """Count lines that are neither blank nor a comment."""
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("#"))


def test_upper_layers_import_lower_ones_never_the_reverse() -> None:
    """supervision knows nobody, actors know supervision, the bridge knows both."""
    for path, tree, _ in sources(*LAYERS):
        layer = LAYERS[path.split("/")[0]]
        for module in imports(tree):
            package = module.split(".")[0]
            assert LAYERS.get(package, -1) <= layer, f"{path} imports {module}"


def test_a_third_party_has_one_home() -> None:
    """Thespian, Kafka's client and SQLite are imported where they are wrapped, and nowhere else."""
    for path, tree, _ in sources(*LAYERS):
        for module in imports(tree):
            home = HOMES.get(module.split(".")[0])
            assert home is None or home.fullmatch(path), f"{path} imports {module}"


def test_pure_modules_see_no_clock_no_chance_and_no_world() -> None:
    """What decides reads no clock, draws no random numbers, logs nothing: time arrives as an argument."""
    for path, tree, _ in sources("actors", "supervision"):
        if path.startswith("supervision/") and Path(path).name in SHELL:
            continue
        found = {module.split(".")[0] for module in imports(tree)} & IMPURE
        assert found <= SEEDED.get(path, set()), f"{path} imports {sorted(found)}"


def test_no_bytes_are_ever_unpickled_but_authenticated_control_frames() -> None:
    """Only the transport, which verifies a signature first, may deserialise code-carrying formats."""
    for path, tree, _ in sources(*PACKAGES):
        found = {module.split(".")[0] for module in imports(tree)} & {"pickle", "marshal", "shelve", "dill"}
        assert not found or path == "supervision/transport.py", f"{path} imports {sorted(found)}"


def test_modules_and_functions_fit_a_screen() -> None:
    """A function is one screen at most, a module what one can hold in mind."""
    for path, tree, text in sources(*PACKAGES, "examples"):
        limit = ADAPTER_LINES_MAX if ADAPTERS.fullmatch(path) else MODULE_LINES_MAX
        assert code_lines(text) <= limit, f"{path} has {code_lines(text)} lines of code, over {limit}"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= FUNCTION_LINES_MAX, f"{path}: {node.name} has {lines} lines"


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX"])
def test_nothing_is_left_for_later_in_the_code(word: str) -> None:
    """What is missing is an issue, not a comment."""
    for path, _, text in sources(*LAYERS):
        assert word not in text, f"{path} says {word}"
