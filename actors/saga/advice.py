"""Advice about the code of a saga, from its own source, when its class is defined. Pure.

It is advice, not a proof: what runs is compared with what is recorded, step by step (``actors.saga.replay``).
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repertory.actors.handler import Handler

#: What a replay would see other values of, or would do again: its first name, and what to use instead.
_FOREIGN = {
    "time": "ctx.timestamp",
    "datetime": "ctx.timestamp",
    "random": "ctx.random",
    "secrets": "ctx.random",
    "uuid": "ctx.new_id()",
    "asyncio": "ctx.gather, ctx.first and ctx.sleep",
    "open": "ctx.perform",
    "input": "ctx.signal",
}
#: Of these modules only what reads a clock is refused: a date may be made of a field.
_CLOCKS = {"datetime": {"now", "utcnow", "today"}}


def advise(handler: Handler) -> None:
    """Raise DefinitionError for what the code of a saga must not contain; nothing if its source cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(handler.function)))
    except (OSError, TypeError, SyntaxError):
        return
    for node in ast.walk(tree):
        if (flaw := _flaw(node)) is not None:
            line = handler.function.__code__.co_firstlineno + getattr(node, "lineno", 1) - 1
            raise handler.refusal(f"{flaw} (line {line})")


def _flaw(node: ast.AST) -> str | None:
    match node:
        case ast.Try(finalbody=[_, *_]) | ast.TryStar(finalbody=[_, *_]):
            return "has a finally, which would run whenever the saga is suspended; catch what you expect"
        case ast.With() | ast.AsyncWith():
            return "has a with, whose end would run whenever the saga is suspended; a saga holds no resources"
        case ast.AsyncFor():
            return "has an async for, which awaits what is no step; use for, and await each step"
        case ast.ExceptHandler(type=None) | ast.ExceptHandler(type=ast.Name(id="BaseException")):
            return "catches everything, its own suspension too; catch Exception, or what you expect"
        case ast.Call(func=function):
            return _call(function)
    return None


def _call(function: ast.expr) -> str | None:
    names: list[str] = []
    while isinstance(function, ast.Attribute):
        names.append(function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return None
    first, last = function.id, names[0] if names else function.id
    if first not in _FOREIGN or (first in _CLOCKS and last not in _CLOCKS[first]):
        return None
    called = ".".join([first, *reversed(names)])
    return f"calls {called}, which differs from run to run; use {_FOREIGN[first]}"
