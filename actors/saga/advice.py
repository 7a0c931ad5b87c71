"""Advice about the code of a saga, from its own source, when its class is defined. Pure.

It is advice, not a proof: what runs is compared with what is recorded, step by step (``actors.saga.replay``).
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repertory.actors.handler import Handler

_CLOCK = "ctx.timestamp"
_RANDOM = "ctx.random"
#: What a replay would see other values of, or would do again, by its module; and what to use instead. Of a module
#: without names, nothing is harmless but its exceptions.
_FOREIGN: Mapping[str, tuple[str, str]] = {
    "time": (
        _CLOCK,
        "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns thread_time "
        "thread_time_ns localtime gmtime ctime sleep clock_gettime clock_gettime_ns",
    ),
    "datetime": (_CLOCK, "now utcnow today"),
    "random": (
        _RANDOM,
        "random randint randrange randbytes getrandbits choice choices sample shuffle uniform triangular gauss "
        "normalvariate lognormvariate expovariate betavariate gammavariate paretovariate vonmisesvariate "
        "weibullvariate Random SystemRandom seed",
    ),
    "secrets": (_RANDOM, "choice randbelow randbits token_bytes token_hex token_urlsafe SystemRandom"),
    "uuid": ("ctx.new_id()", "uuid1 uuid4 uuid6 uuid7 uuid8 getnode"),
    "os": ("ctx.random, or ctx.perform", "urandom getrandom getpid getenv open system popen"),
    "traceback": (
        "the text of the exception",
        "format_exc format_exception format_tb format_stack extract_stack extract_tb",
    ),
    "asyncio": ("ctx.gather, ctx.first and ctx.sleep", ""),
    "builtins": ("what is in the command, ctx.perform or ctx.signal", "open input id"),
}
#: Where the functions of a module say that they are from.
_SAME = {"_io": "builtins", "io": "builtins", "posix": "os", "nt": "os"}
#: What a suspended saga is closed with, and what that is.
_SUSPENSIONS = (["builtins", "BaseException"], ["builtins", "GeneratorExit"])
#: These differ only where they are called without an argument.
_WITHOUT = frozenset({"gmtime", "localtime", "ctime", "Random"})


def advise(handler: Handler) -> None:
    """Raise DefinitionError for what the code of a saga must not contain; nothing if its source cannot be read."""
    function: Any = handler.function
    while inspect.isfunction(function):
        _advise(handler, function)
        function = getattr(function, "__wrapped__", None)  # What a decorator wraps is the saga's code too.


def _advise(handler: Handler, function: FunctionType) -> None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function.__code__)))
    except (OSError, TypeError, SyntaxError):
        return
    names = _Names(function, handler.owner, tree)
    for node in ast.walk(tree):
        if (flaw := _flaw(node, names)) is not None:
            line = function.__code__.co_firstlineno + getattr(node, "lineno", 1) - 1
            raise handler.refusal(f"{flaw} (line {line})")


class _Names:
    """What the names in the code of a saga mean, as far as that is known when its class is defined."""

    def __init__(self, function: Any, owner: type, tree: ast.AST) -> None:
        self._globals, self._owner = function.__globals__, owner
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        self._outer = dict(_contents(cells))
        self._imported: dict[str, str] = {}
        self._local: set[str] = set()
        for node in ast.walk(tree):
            match node:
                case ast.Import(names=aliases):
                    for each in aliases:
                        whole = each.name if each.asname else each.name.split(".")[0]
                        self._imported[each.asname or whole] = whole
                case ast.ImportFrom(module=str(module), names=aliases):
                    self._imported |= {each.asname or each.name: f"{module}.{each.name}" for each in aliases}
                case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                    self._local.add(name)

    def is_awaited(self, called: ast.expr) -> bool:
        """Return whether what is called is an async function, by its name or as a method of the saga."""
        match called:
            case ast.Name(id=name) if name not in self._local:
                found = self._outer.get(name, self._globals.get(name))
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                found = getattr(self._owner, name, None)
            case _:
                return False
        return inspect.iscoroutinefunction(found)

    def path(self, name: str) -> list[str]:
        """Return the parts of what a name refers to: its module, then its name there; [] for a local variable."""
        if name in self._imported:
            return self._imported[name].split(".")
        if name in self._local:
            return []
        found = self._outer.get(name, self._globals.get(name, getattr(builtins, name, None)))
        if isinstance(found, ModuleType):
            return found.__name__.split(".")
        module = str(getattr(found, "__module__", "")).split(".")[0]
        return [_SAME.get(module, module), str(getattr(found, "__name__", name))]


def _contents(cells: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, object]]:
    for name, cell in cells:
        try:
            yield name, cell.cell_contents
        except ValueError:  # It is assigned later.
            continue


def _flaw(node: ast.AST, names: _Names) -> str | None:
    match node:
        case ast.Try(body, finalbody=[_, *_]) | ast.TryStar(body, finalbody=[_, *_]) if _suspends(body):
            return "has a finally, which would run whenever the saga is suspended; catch what you expect"
        case ast.AsyncWith():
            return "has an async with, which awaits what is no step; a saga holds no resources"
        case ast.With(body=body) if _suspends(body):
            return "has a with, whose end would run whenever the saga is suspended; a saga holds no resources"
        case ast.AsyncFor() | ast.comprehension(is_async=1):
            return "has an async for, which awaits what is no step; use for, and await each step"
        case ast.Try(body, handlers) | ast.TryStar(body, handlers) if _suspends(body) and any(
            _catches_all(each, names) for each in handlers
        ):
            return "catches everything, its own suspension too; catch Exception, or what you expect"
        case ast.Expr(value=ast.Call(func=called)) if names.is_awaited(called):
            return f"calls {ast.unparse(called)} without await, so nothing of it happens; await it"
        case ast.Call(func=function, args=args):
            return _call(function, names, has_arguments=bool(args))
    return None


def _catches_all(handler: ast.ExceptHandler, names: _Names) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(each is None or _path(each, names) in _SUSPENSIONS for each in caught)


def _path(node: ast.expr, names: _Names) -> list[str]:
    """Return the parts of what a name refers to, or one in a module; [] for anything else."""
    match node:
        case ast.Name(id=name):
            return names.path(name)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute):
            return [*names.path(name), attribute]
    return []


def _suspends(body: Sequence[ast.stmt]) -> bool:
    """Return whether the saga may be suspended in a part of its code, or begin again there."""
    return any(
        isinstance(node, ast.Await) or (isinstance(node, ast.Attribute) and node.attr == "again")
        for part in body
        for node in ast.walk(part)
    )


def _call(function: ast.expr, names: _Names, *, has_arguments: bool) -> str | None:
    attributes: list[str] = []
    while isinstance(function, ast.Attribute):
        attributes.insert(0, function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return None
    path = names.path(function.id)
    module, called = path[0] if path else "", [*path, *attributes][-1] if path else ""
    if module not in _FOREIGN or len(path) + len(attributes) < 2:
        return None
    instead, differing = _FOREIGN[module]
    is_harmless = called not in differing.split() if differing else called.endswith("Error")
    if is_harmless or (has_arguments and called in _WITHOUT):
        return None
    return f"calls {'.'.join([function.id, *attributes])}, which differs from run to run; use {instead}"
