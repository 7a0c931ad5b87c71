"""Sagas that do all that a saga can, as a script says, for the simulator. Their money is in `tests.apps.purses`.

What a saga has taken and not put back, it holds. A script keeps, and ends with a pivot, only where it holds nothing: so
whatever is rejected, cancelled or lost, nothing is held by a saga that is over.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any, Literal

import msgspec

from repertory import (
    PIVOT,
    ActorSystem,
    AlreadyBegun,
    Backoff,
    Cancelled,
    Command,
    Directive,
    Event,
    Policy,
    Saga,
    SagaContext,
    TooLate,
    Undelivered,
    restart,
    run,
    signal,
)
from repertory.actors.entity import resolved
from repertory.actors.saga.messages import CancelSaga, RetryUndo, SkipUndo
from repertory.actors.saga.step import Call, Open
from repertory.bridge.system.settings import Settings
from tests.apps.purses import (
    Back,
    Fill,
    Given,
    IsLocked,
    Lock,
    Mail,
    Pay,
    Poor,
    Purse,
    Put,
    Take,
    Taken,
    Unput,
    Wake,
    mail,
    pay,
    unpay,
)

Verb = Literal[
    "take", "try", "put", "pivot", "both", "race", "duel", "hear", "either", "pay", "mail", "nap", "keep", "child",
    "bug", "reject", "again",
]  # fmt: skip


class Op(msgspec.Struct, frozen=True):
    """One line of a script. ``s``: of a time-out or a sleep; 0: none."""

    verb: Verb
    key: str = ""
    amount: int = 0
    how: str = ""
    s: float = 0.0


class Begin(Command):
    """Begin a deal. ``held`` and ``heard`` are of the run before it."""

    ops: tuple[Op, ...]
    held: int = 0
    heard: tuple[int, ...] = ()


class Go(Command):
    """A signal."""

    number: int


class Halt(Command):
    """Another one."""

    number: int


class Dealt(Event):
    """The deal is done; it heard these signals."""

    heard: tuple[int, ...]


class Mended:
    """Whether this build has no bug."""

    yes = False


class Deal(Saga, steps_max=60, signals_max=20, results_kept_s=30):
    """Does what its script says."""

    go = signal(Go)
    halt = signal(Halt)

    @run
    async def deal(
        self, cmd: Begin, ctx: SagaContext
    ) -> Dealt | Poor | IsLocked | Undelivered | Cancelled | AlreadyBegun | TooLate:
        """Run the script."""
        held, heard = cmd.held, list(cmd.heard)
        for at, op in enumerate(cmd.ops):
            if op.verb in _TAKING:
                held += await _TAKING[op.verb](ctx, op)
            elif op.verb in _OTHERS:
                heard += await _OTHERS[op.verb](ctx, op)
            elif op.verb == "put" and held >= op.amount:
                held -= await _put(ctx, op)
            elif op.verb == "pivot" and held:
                put = Put(amount=held, by=ctx.key, how=op.how)
                held *= not isinstance(await ctx.ask(Purse.put, op.key, put, undo=PIVOT), Given)
            elif op.verb == "keep" and not held:
                ctx.keep()
            elif op.verb == "bug" and held and not Mended.yes:
                raise ValueError("a bug")
            elif op.verb == "reject":
                return Poor()
            elif op.verb == "again":
                await ctx.sleep(op.s)
                return ctx.again(Begin(ops=cmd.ops[at + 1 :], held=held, heard=tuple(heard)))
        if held:
            await ctx.require(Purse.put, "home", Put(amount=held, by=ctx.key), undo=PIVOT)
        return Dealt(heard=tuple(heard))


def _taking(ctx: SagaContext, op: Op) -> Open[Any]:
    """Return the step that takes what a line says, or less than nothing."""
    take, undo = Take(amount=op.amount, by=ctx.key, how=op.how), _back(ctx, op.key, op.amount)
    if op.verb == "try" and op.s:
        return ctx.ask(Purse.take, op.key, take, undo=undo, timeout_s=op.s)
    return ctx.ask(Purse.take, op.key, take, undo=undo)


def _back(ctx: SagaContext, key: str, amount: int) -> Call:
    return ctx.call(Purse.back, key, Back(amount=amount, by=ctx.key))


def _sum(*found: object) -> int:
    return sum(each.amount for each in found if isinstance(each, Taken))


async def _take(ctx: SagaContext, op: Op) -> int:
    take = Take(amount=op.amount, by=ctx.key, how=op.how)
    return _sum(await ctx.require(Purse.take, op.key, take, undo=_back(ctx, op.key, op.amount)))


async def _try(ctx: SagaContext, op: Op) -> int:
    return _sum(await _taking(ctx, op))


async def _both(ctx: SagaContext, op: Op) -> int:
    take = Take(amount=op.amount, by=ctx.key, how=op.how)
    return _sum(
        *await ctx.gather(
            ctx.require(Purse.take, op.key, take, undo=_back(ctx, op.key, op.amount)),
            ctx.ask(Purse.take, "home", Take(amount=1, by=ctx.key), undo=_back(ctx, "home", 1)),
            ctx.sleep(op.s),
        ),
    )


async def _race(ctx: SagaContext, op: Op) -> int:
    return _sum(await ctx.first(_taking(ctx, op), ctx.sleep(op.s)))


async def _duel(ctx: SagaContext, op: Op) -> int:
    other = ctx.ask(
        Purse.take, "home", Take(amount=op.amount, by=ctx.key), undo=_back(ctx, "home", op.amount)
    )  # fmt: skip
    return _sum(await ctx.first(_taking(ctx, op), other))


async def _put(ctx: SagaContext, op: Op) -> int:
    undo = ctx.call(Purse.unput, op.key, Unput(amount=op.amount, by=ctx.key))
    put = Put(amount=op.amount, by=ctx.key, how=op.how)
    return op.amount if isinstance(await ctx.ask(Purse.put, op.key, put, undo=undo), Given) else 0


async def _hear(ctx: SagaContext, _op: Op) -> list[int]:
    return [(await ctx.signal(Go)).number]


async def _either(ctx: SagaContext, op: Op) -> list[int]:
    came = await ctx.first(ctx.signal(Go), ctx.sleep(op.s), ctx.signal(Halt))
    return [] if came is None else [came.number]


async def _pay(ctx: SagaContext, op: Op) -> list[int]:
    await ctx.perform(pay, Pay(amount=op.amount), undo=ctx.call(unpay, Pay(amount=op.amount)))
    return []


async def _mail(ctx: SagaContext, op: Op) -> list[int]:
    await ctx.first(ctx.perform(mail, Mail(text=op.key), undo=None), ctx.sleep(op.s))
    return []


async def _nap(ctx: SagaContext, op: Op) -> list[int]:
    await ctx.sleep(op.s)
    return []


async def _child(ctx: SagaContext, op: Op) -> list[int]:
    child = Begin(ops=CHILDREN[op.amount % len(CHILDREN)])
    if op.s:
        await ctx.ask(Deal.deal, op.key, child, undo=None, timeout_s=op.s)
    else:
        await ctx.require(Deal.deal, op.key, child, undo=None)
    return []


#: What each verb takes; and what the others hear.
_TAKING: dict[str, Callable[[SagaContext, Op], Awaitable[int]]] = {
    "take": _take, "try": _try, "both": _both, "race": _race, "duel": _duel,
}  # fmt: skip
_OTHERS: dict[str, Callable[[SagaContext, Op], Awaitable[list[int]]]] = {
    "hear": _hear, "either": _either, "pay": _pay, "mail": _mail, "nap": _nap, "child": _child,
}  # fmt: skip

CHILDREN = (
    (Op("take", "p0", 2), Op("nap", s=0.3), Op("pivot", "p1")),
    (Op("take", "p1", 3), Op("hear")),
    (Op("take", "p2", 1), Op("reject")),
    (Op("try", "p0", 2, "late", 0.2), Op("pay", amount=1)),
)

POLICY = restart(
    max_restarts=2,
    within_s=60,
    backoff=Backoff(first_s=0.02, max_s=1.0),
    on={KeyError: Directive.RESUME, ValueError: Directive.STOP},
)
#: What handlers raise without an injected fault.
allowed_errors = (ValueError, KeyError, RuntimeError)


def made(name: str, policy: Policy = POLICY) -> ActorSystem:
    """Return a system of sagas and purses."""
    stash = int(os.environ.get("SAGAS_STASH", "1000"))
    settings = Settings(timers_per_turn_max=3, effects_running_max=5, stash_per_key_max=stash)
    found = ActorSystem(name, settings=settings)
    found.host(Purse, partitions=2, supervise=policy)
    found.host(Deal, partitions=2, supervise=policy)
    return found


#: For the simulator, and for nodes; see ``tests.support.nodes.trial``.
system = made(os.environ.get("SAGAS_NAME", "sagas"))

_VERBS: tuple[Verb, ...] = (
    "take", "take", "take", "try", "try", "put", "put", "pivot", "both", "race", "duel", "hear", "either", "either",
    "pay", "mail", "nap", "keep", "child", "bug", "reject", "again", "again",
)  # fmt: skip
_HOW = ("", "", "", "", "park", "hopeless", "once", "late", "silent")
_S = (0.0, 0.001, 0.1, 0.6, 5.0)


def _op(random: Random, hows: tuple[str, ...]) -> Op:
    verb = random.choice(_VERBS)
    key = f"c{random.randrange(3)}" if verb == "child" else f"p{random.randrange(4)}"
    how = random.choice(hows) if random.randrange(2) else ""
    if verb in ("put", "pivot") and how in ("late", "silent"):
        how = ""
    return Op(verb, key, 1 + random.randrange(5), how, random.choice(_S))


def commands(random: Random, count: int = 90, hows: tuple[str, ...] = _HOW) -> Iterator[tuple[Any, str, Command]]:
    """Yield the commands of one run: few sagas and purses, so that they meet; ``hows``: how purses misbehave."""
    handlers = resolved(Deal).handlers
    for key in ("home", "p0", "p1", "p2"):
        yield Purse.fill, key, Fill(amount=12)
    begun: dict[str, Begin] = {}
    for _ in range(count):
        key = f"d{random.randrange(9)}"
        begin = Begin(ops=tuple(_op(random, hows) for _ in range(1 + random.randrange(6))))
        known = begun.setdefault(key, begin)
        step = random.randrange(5)
        yield random.choices(
            (
                (Deal.deal, key, known if random.randrange(8) else begin),
                (Deal.go, key, Go(number=random.randrange(100))),
                (Deal.halt, key, Halt(number=random.randrange(100))),
                (handlers[CancelSaga], key, CancelSaga(reason="simulated")),
                (handlers[RetryUndo], key, RetryUndo(step=step)),
                (handlers[SkipUndo], key, SkipUndo(step=step, reason="simulated")),
                (Purse.lock, f"p{random.randrange(4)}", Lock(locked=random.randrange(3) == 0)),
                (Purse.wake, f"p{random.randrange(4)}", Wake()),
                (Purse.fill, f"p{random.randrange(4)}", Fill(amount=random.randrange(4))),
            ),
            weights=(14, 5, 2, 5, 4, 2, 3, 3, 2),
        )[0]
