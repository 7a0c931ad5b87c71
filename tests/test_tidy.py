"""The rules of the house, run as a test: layers, third parties, sizes, and what pure modules may not do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.paths import LINKED, ROOT, located, named

#: The folders that are installed as ``repertory.…``: the first three are linked from there.
PACKAGES = (*LINKED, "repertory")
EVERYWHERE = (*PACKAGES, "examples", "benchmarks")

#: What stands around the runtime, and which of the others each may know: nothing but what is named here.
AROUND = {
    "avro": set(),
    "cli": {"gateway", "inspect", "operate", "projections", "simulation", "verify"},
    "gateway": set(),
    "inspect": set(),
    "operate": {"inspect"},
    "projections": set(),
    "simulation": {"projections", "verify"},
    "verify": set(),
}

#: Modules of the bridge that import nothing else of it, so that every room may import them.
GROUND = {"kill_points", "log_lines", "reports", "silence", "system.settings", "text"}
#: The rooms of the bridge, by the first pattern that a module's path matches, and the rooms that each may import.
ROOMS = {
    "port": re.compile(r"log\.(port|follower|errors|record|clock)"),
    "adapters": re.compile(r"log\..*"),
    "node": re.compile(r"node\..*"),
    "system": re.compile(r"system\..*|worker"),
    "sources": re.compile(r"sources\.\w+"),
    "journey": re.compile(r"\w+"),
}
MAY_IMPORT = {
    "port": {"port"},
    "adapters": {"port", "adapters"},
    "node": {"port", "node"},
    "journey": {"port", "journey"},
    "sources": {"port", "journey", "sources"},
    "system": {"port", "adapters", "node", "journey", "sources", "system"},
}

#: Who alone may import a third party, and why it is worth a rule: each is a world of its own to isolate.
HOMES = {
    "fastavro": re.compile(r"repertory/avro/.*"),
    "confluent_kafka": re.compile(r"bridge/log/kafka/.*|benchmarks/.*"),
    "sqlite3": re.compile(r"bridge/log/embedded/store\.py"),
    "thespian": re.compile(r"supervision/process/.*"),
    "typer": re.compile(r"repertory/cli/.*|benchmarks/.*|examples/.*"),
    "rich": re.compile(r"repertory/cli/.*|benchmarks/.*|examples/.*"),
    "sqlalchemy": re.compile(r"repertory/(projections|simulation/projected)/.*|examples/.*|benchmarks/.*"),
    "psycopg": re.compile(r"benchmarks/.*"),
    "starlette": re.compile(r"repertory/gateway/.*|examples/shop/front\.py"),
    "uvicorn": re.compile(r"repertory/gateway/server\.py"),
}

#: Not pure: they start processes, talk to them, are the threads in them, or ask the kernel about them.
SHELL = "supervision/process/"
IMPURE = {"time", "random", "logging", "threading", "subprocess", "socket", "os", "uuid", "secrets", "asyncio"}
#: A generator seeded from a command's cause draws the same every time.
SEEDED = {"actors/context.py": {"random"}, "actors/saga/facts.py": {"random"}}

MODULE_LINES_MAX, ADAPTER_LINES_MAX, FUNCTION_LINES_MAX = 250, 400, 60
ADAPTERS = re.compile(r"bridge/log/(kafka|embedded)/.*|supervision/process/.*|repertory/cli/.*")


def sources(*folders: str) -> Iterator[tuple[str, ast.Module, str]]:
    """Yield path, syntax tree and text of every module; links are not followed."""
    for folder in folders:
        for path in sorted(located(folder).rglob("*.py")):
            name = named(path)
            if name.split("/")[0] != folder:
                continue
            text = path.read_text(encoding="utf-8")
            yield name, ast.parse(text), text


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that a module imports, under whatever condition, and what it imports from packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            yield module
            folder = ROOT / module.replace(".", "/")
            yield from (f"{module}.{alias.name}" for alias in node.names if (folder / f"{alias.name}.py").is_file())


def layer_of(module: str) -> int | None:
    """Return the layer of a module of ours: what is above may import what is below."""
    parts = module.split(".")
    if parts[0] in ("examples", "benchmarks"):
        return 5
    if parts[0] != "repertory":
        return None
    if len(parts) == 1:
        return 4
    return {"supervision": 0, "actors": 1, "bridge": 2}.get(parts[1], 3)


def own_name(path: str) -> str:
    """Return the name under which a module is imported."""
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(["repertory", *parts] if parts[0] in LINKED else parts)


def room_of(module: str) -> str:
    """Return the room of a module of the bridge, named without ``repertory.bridge.``."""
    return next(room for room, pattern in ROOMS.items() if pattern.fullmatch(module))


def code_lines(text: str) -> int:
    """Count lines that are neither blank nor a comment."""
    return sum(1 for line in text.splitlines() if line.strip() and not line.strip().startswith("#"))


def test_everything_of_ours_is_imported_as_repertory() -> None:
    """``actors``, ``bridge`` and ``supervision`` are folders of a checkout: other projects install such names too."""
    for path, tree, _ in sources(*EVERYWHERE, "tests"):
        for module in imports(tree):
            assert module.split(".")[0] not in LINKED, f"{path} imports {module}; write repertory.{module}"


def test_upper_layers_import_lower_ones_never_the_reverse() -> None:
    """supervision knows nobody, actors know supervision, the bridge knows both, what is around it knows all three."""
    for path, tree, _ in sources(*EVERYWHERE):
        own = layer_of(own_name(path))
        assert own is not None, path
        for module in imports(tree):
            other = layer_of(module)
            assert other is None or other <= own, f"{path} imports {module}"


def test_what_stands_around_the_runtime_does_not_import_its_neighbours() -> None:
    """Of the packages around the runtime, each imports only those that it is made of."""
    for path, tree, _ in sources("repertory"):
        own = path.split("/")[1]
        if own not in AROUND:
            continue
        for module in imports(tree):
            parts = module.split(".")
            if parts[0] == "repertory" and len(parts) > 1 and parts[1] in AROUND and parts[1] != own:
                assert parts[1] in AROUND[own], f"{path} imports {module}"


def test_the_rooms_of_the_bridge() -> None:
    """Adapters know the port, a node no loop and no system, the journey no adapter; a system knows them all."""
    for path, tree, _ in sources("bridge"):
        own = own_name(path).removeprefix("repertory.bridge").removeprefix(".")
        if path.endswith("/__init__.py"):
            continue
        for module in imports(tree):
            other = module.removeprefix("repertory.bridge.")
            if other == module or other in GROUND or not located(f"bridge/{other.replace('.', '/')}.py").is_file():
                continue
            assert own not in GROUND, f"{path} imports {module}, and everything imports {path}"
            assert room_of(other) in MAY_IMPORT[room_of(own)], f"{path} ({room_of(own)}) imports {module}"


def test_what_users_write_does_not_know_the_kernel() -> None:
    """Messages, entities and contexts are values of their own; the test kit alone runs the kernel."""
    for path, tree, _ in sources("actors"):
        if path.startswith("actors/shard/") or path in ("actors/testkit.py", "actors/__init__.py"):
            continue
        found = [module for module in imports(tree) if module.startswith("repertory.actors.shard")]
        assert not found, f"{path} imports {found[0]}"


def test_a_third_party_has_one_home() -> None:
    """Thespian, Kafka's client, SQLite, SQLAlchemy, Starlette: each is imported where it is wrapped alone."""
    for path, tree, _ in sources(*EVERYWHERE):
        for module in imports(tree):
            home = HOMES.get(module.split(".")[0])
            assert home is None or home.fullmatch(path), f"{path} imports {module}"


def test_pure_modules_see_no_clock_no_chance_and_no_world() -> None:
    """What decides reads no clock, draws no random numbers, logs nothing: time arrives as an argument.

    That holds for all actors and for supervision but its processes, and for each module whose docstring says "Pure".
    """
    claims = 0
    for path, tree, _ in sources(*PACKAGES):
        is_claimed = re.search(r"\bPure\b", ast.get_docstring(tree) or "") is not None
        claims += is_claimed
        if not is_claimed and (not path.startswith(("actors/", "supervision/")) or path.startswith(SHELL)):
            continue
        found = {module.split(".")[0] for module in imports(tree)} & IMPURE
        assert found <= SEEDED.get(path, set()), f"{path} imports {sorted(found)}"
    assert claims


def test_a_class_name_has_one_meaning() -> None:
    """No two public classes of the product have the same name: a reader must not have to ask which."""
    found: dict[str, str] = {}
    for path, tree, _ in sources(*PACKAGES):
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert node.name not in found, f"{path} and {found[node.name]} both have a class {node.name}"
                found[node.name] = path


def test_no_bytes_are_ever_unpickled_but_authenticated_control_frames() -> None:
    """Only the transport, which verifies a signature first, may deserialise code-carrying formats."""
    for path, tree, _ in sources(*PACKAGES):
        found = {module.split(".")[0] for module in imports(tree)} & {"pickle", "marshal", "shelve", "dill"}
        assert not found or path == "supervision/process/transport.py", f"{path} imports {sorted(found)}"


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
    for path, _, text in sources(*EVERYWHERE):
        assert word not in text, f"{path} says {word}"


@pytest.mark.parametrize("folder", PACKAGES)
def test_every_package_says_what_its_rooms_are(folder: str) -> None:
    """Each package has an ``__init__`` with a docstring: what is in it, and which module to enter first."""
    for path in sorted(located(folder).rglob("*.py")):
        init = path.parent / "__init__.py"
        assert init.is_file(), f"{init.relative_to(ROOT)} is missing: setuptools would not ship the package"
        assert ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), f"{init.relative_to(ROOT)} says nothing"
