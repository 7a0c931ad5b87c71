"""Advice about the code of a saga, when its class is defined: what it must not contain, and what is harmless."""

# ruff: noqa: A001, ASYNC230, ASYNC250, BLE001, C416, DTZ011, PLC0415, PTH118, PTH123, S311, T201 - what is refused.
from __future__ import annotations

import asyncio
import builtins
import contextlib
import datetime as dt
import functools
import inspect
import os
import random
import secrets
import time
import traceback
import uuid
from asyncio import sleep
from builtins import BaseException as Everything
from collections.abc import Callable
from datetime import UTC, date, datetime
from random import Random, randint
from time import monotonic as now
from time import time as seconds
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest

from repertory import Cancelled, DefinitionError, Saga, SagaContext, run
from repertory.actors.entity import resolved
from tests.actors.saga.domain import Begin, Ended

RANDOM = random.Random(5)
TODAY = date(2026, 1, 1)


async def uses_finally(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Clean up."""
    try:
        await ctx.sleep(1)
    finally:
        print("over")
    return Ended()


async def uses_finally_around_again(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Clean up."""
    try:
        return ctx.again(cmd)
    finally:
        print("over")


async def uses_with(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Hold something."""
    with contextlib.suppress(ValueError):
        await ctx.sleep(1)
    return Ended()


async def uses_async_with(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Hold something."""
    async with contextlib.AsyncExitStack():
        return Ended()


async def uses_async_for(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Await what is no step."""
    async for _ in cmd:  # type: ignore[attr-defined]
        pass
    return Ended()


async def uses_bare_except(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Catch everything."""
    try:
        await ctx.sleep(1)
    except:  # noqa: E722
        return Ended()
    return Ended()


async def uses_base_exception(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Catch everything."""
    try:
        await ctx.sleep(1)
    except (ValueError, BaseException):
        return Ended()
    return Ended()


async def uses_except_star(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Catch everything in a group."""
    try:
        await ctx.sleep(1)
    except* BaseException:
        print("over")
    return Ended()


async def uses_renamed_exception(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Catch everything."""
    try:
        await ctx.sleep(1)
    except Everything:
        return Ended()
    return Ended()


async def uses_exception_of_module(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Catch everything."""
    try:
        await ctx.sleep(1)
    except builtins.BaseException:
        return Ended()
    return Ended()


async def uses_generator_exit(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Catch what it is suspended by."""
    try:
        await ctx.sleep(1)
    except GeneratorExit:
        return Ended()
    return Ended()


def cleaned(code: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the code of a saga."""

    @functools.wraps(code)
    async def wrapper(self: Any, cmd: Begin, ctx: SagaContext) -> Any:
        try:
            return await code(self, cmd, ctx)
        finally:
            print("over")

    return wrapper


@cleaned
async def is_decorated(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """What runs is the wrapper."""
    await ctx.sleep(1)
    return Ended()


def logged(code: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the code of a saga with what is harmless, and lives in another module."""
    names: dict[str, Any] = {"functools": functools}
    exec(compile(LOGGED, "<logged>", "exec"), names)  # noqa: S102
    found: Callable[..., Any] = names["logged"](code)
    return found


LOGGED = """
def logged(code):
    @functools.wraps(code)
    async def wrapper(self, cmd, ctx):
        return await code(self, cmd, ctx)
    return wrapper
"""


@logged
async def calls_time_below_a_decorator(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """The names are those of this module, not of the decorator's."""
    return Ended(text=str(now()))


async def calls_time(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Read a clock."""
    return Ended(text=str(time.time()))


async def calls_imported_time(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Read a clock."""
    return Ended(text=str(seconds()))


async def calls_renamed_time(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Read a clock."""
    return Ended(text=str(now()))


async def calls_time_imported_within(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Read a clock."""
    from time import time_ns as ticks

    return Ended(text=str(ticks()))


async def calls_today(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Read a clock."""
    return Ended(text=str(date.today()))


async def calls_now(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Read a clock."""
    return Ended(text=str(datetime.now(UTC)))


async def calls_now_of_module(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Read a clock."""
    return Ended(text=str(dt.datetime.now(dt.UTC)))


async def calls_uuid4(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Draw an id."""
    return Ended(text=uuid4().hex)


async def calls_uuid1(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Draw an id."""
    return Ended(text=uuid.uuid1().hex)


async def calls_random(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Draw."""
    return Ended(text=str(randint(1, 6)))


async def calls_random_choice(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Draw."""
    return Ended(text=random.choice("ab"))


async def calls_shared_random(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Draw from what other sagas draw from."""
    return Ended(text=str(RANDOM.random()))


async def calls_random_without_a_seed(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Draw."""
    return Ended(text=str(Random().random()))


async def calls_secrets(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Draw."""
    return Ended(text=secrets.token_hex())


async def calls_urandom(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Draw."""
    return Ended(text=str(os.urandom(1)))


async def calls_asyncio_sleep(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Wait elsewhere."""
    await asyncio.sleep(1)
    return Ended()


async def calls_imported_sleep(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Wait elsewhere."""
    await sleep(1)
    return Ended()


async def calls_open(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Read a file."""
    return Ended(text=open("x").read())


async def calls_input(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Ask somebody."""
    return Ended(text=input())


async def calls_traceback(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Say where it failed."""
    try:
        await ctx.sleep(1)
    except ValueError:
        return Ended(text=traceback.format_exc())
    return Ended()


async def calls_id(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Use an address."""
    return Ended(text=str(id(cmd)))


async def nap(ctx: SagaContext) -> None:
    """Sleep a little, for the code of a saga."""
    await ctx.sleep(1)


async def forgets_await(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Call an async function, and do not await what it returns."""
    nap(ctx)  # noqa: RUF100  what is tested
    return Ended()


async def forgets_await_of_a_method(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """The same of a method of the saga."""
    if cmd.number:
        self.nap(ctx)
    return Ended()


async def harmless(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Use what is the same in each run."""
    await nap(ctx)
    random, time, open = ctx.random, ctx.timestamp, print
    random.random()
    time.isoformat()
    open("done")
    UUID(int=cmd.number)
    uuid.UUID(int=5)
    uuid5(uuid.NAMESPACE_DNS, "x")
    dt.datetime.fromtimestamp(0, UTC)
    datetime(2026, 1, 1, tzinfo=UTC)
    TODAY.isoformat()
    os.path.join("a", "b")
    secrets.compare_digest("a", "b")
    Random(5).random()
    seen = [id for id in range(3)]
    with contextlib.suppress(ValueError):
        int("x")
    try:
        int("x")
    except:  # noqa: E722
        seen.clear()
    finally:
        seen.append(1)
    try:
        await ctx.sleep(1)
    except Exception:
        raise asyncio.CancelledError from None
    return Ended(text=str([each.sleep() for each in seen]))


async def harmless_time(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Format a time."""
    return Ended(text=time.strftime("%Y", time.gmtime(0)))


def define(code: Callable[..., Any]) -> type[Saga]:
    """Define a saga of that code."""
    return type(Saga)("Made", (Saga,), {"__module__": __name__, "begin": run(code)})


def test_a_method_that_is_not_awaited_is_refused() -> None:
    """As a function: nothing of it would happen, and nobody would say so."""

    async def method(_self: Any, ctx: SagaContext) -> None:
        await ctx.sleep(1)

    with pytest.raises(DefinitionError, match=r"calls self\.nap without await"):
        type(Saga)("Made", (Saga,), {"__module__": __name__, "nap": method, "begin": run(forgets_await_of_a_method)})


CLOCK = r"which differs from run to run; use ctx\.timestamp"
RANDOMNESS = r"which differs from run to run; use ctx\.random"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (uses_finally, "has a finally, which would run whenever the saga is suspended; catch what you expect"),
        (
            uses_finally_around_again,
            "has a finally, which would run whenever the saga is suspended; catch what you exp",
        ),
        (uses_with, "has a with, whose end would run whenever the saga is suspended; a saga holds no resources"),
        (uses_async_with, "has an async with, which awaits what is no step; a saga holds no resources"),
        (uses_async_for, "has an async for, which awaits what is no step; use for, and await each step"),
        (uses_bare_except, "catches everything, its own suspension too; catch Exception, or what you expect"),
        (forgets_await, r"calls nap without await, so nothing of it happens; await it"),
        (uses_base_exception, "catches everything, its own suspension too; catch Exception, or what you expect"),
        (uses_except_star, "catches everything, its own suspension too; catch Exception, or what you expect"),
        (uses_renamed_exception, "catches everything, its own suspension too; catch Exception, or what you expect"),
        (uses_exception_of_module, "catches everything, its own suspension too; catch Exception, or what you expect"),
        (uses_generator_exit, "catches everything, its own suspension too; catch Exception, or what you expect"),
        (is_decorated, "has a finally, which would run whenever the saga is suspended; catch what you expect"),
        (calls_time_below_a_decorator, f"calls now, {CLOCK}"),
        (calls_time, f"calls time.time, {CLOCK}"),
        (calls_imported_time, f"calls seconds, {CLOCK}"),
        (calls_renamed_time, f"calls now, {CLOCK}"),
        (calls_time_imported_within, f"calls ticks, {CLOCK}"),
        (calls_today, f"calls date.today, {CLOCK}"),
        (calls_now, f"calls datetime.now, {CLOCK}"),
        (calls_now_of_module, f"calls dt.datetime.now, {CLOCK}"),
        (calls_uuid4, r"calls uuid4, which differs from run to run; use ctx\.new_id\(\)"),
        (calls_uuid1, r"calls uuid.uuid1, which differs from run to run; use ctx\.new_id\(\)"),
        (calls_random, f"calls randint, {RANDOMNESS}"),
        (calls_random_choice, f"calls random.choice, {RANDOMNESS}"),
        (calls_shared_random, f"calls RANDOM.random, {RANDOMNESS}"),
        (calls_random_without_a_seed, f"calls Random, {RANDOMNESS}"),
        (calls_secrets, f"calls secrets.token_hex, {RANDOMNESS}"),
        (calls_urandom, f"calls os.urandom, {RANDOMNESS}, or ctx.perform"),
        (
            calls_asyncio_sleep,
            r"calls asyncio.sleep, which differs from run to run; use ctx\.gather, ctx\.first and ct",
        ),
        (
            calls_imported_sleep,
            r"calls sleep, which differs from run to run; use ctx\.gather, ctx\.first and ctx\.sleep",
        ),
        (calls_open, "calls open, which differs from run to run; use what is in the command, ctx.perform or ctx.sig"),
        (calls_input, "calls input, which differs from run to run; use what is in the command, ctx.perform or ctx.sig"),
        (calls_traceback, "calls traceback.format_exc, which differs from run to run; use the text of the exception"),
        (calls_id, "calls id, which differs from run to run; use what is in the command, ctx.perform or ctx.signal"),
    ],
)
def test_what_the_code_of_a_saga_must_not_contain(code: Callable[..., Any], sentence: str) -> None:
    """It is named with its line, whatever it was imported as."""
    with pytest.raises(DefinitionError, match=rf"^@run Made\.begin {sentence}.* \(line \d+\)\.$") as raised:
        define(code)
    line = int(str(raised.value).rsplit("line ", 1)[1][:-2])
    begins = [each.__code__.co_firstlineno for each in (code, inspect.unwrap(code))]
    assert any(begin < line <= begin + 6 for begin in begins)


@pytest.mark.parametrize("code", [harmless, harmless_time])
def test_what_is_harmless_is_not_refused(code: Callable[..., Any]) -> None:
    """A name that means something else, a function that returns the same each time, a block without a step."""
    assert resolved(define(code))


def test_what_a_closure_means() -> None:
    """A name of the function around the class."""
    from uuid import uuid4 as made

    async def begin(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
        return Ended(text=made().hex)

    with pytest.raises(DefinitionError, match=r"calls made, which differs from run to run; use ctx\.new_id\(\)"):
        define(begin)


def test_code_without_its_source() -> None:
    """Nothing can be said about it."""
    names: dict[str, Any] = {
        "time": time,
        "Ended": Ended,
        "Begin": Begin,
        "SagaContext": SagaContext,
        "Cancelled": Cancelled,
    }
    head = "async def begin(self, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:"
    text = f"{head}\n    return Ended(text=str(time.time()))"
    exec(text, names)  # noqa: S102  as a notebook does
    assert resolved(define(names["begin"]))
