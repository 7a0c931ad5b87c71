"""Sagas of one rule each, at the top of a module: another process can import them."""

from __future__ import annotations

from repertory import PIVOT, Cancelled, Saga, SagaContext, TimedOut, Undelivered, run, signal
from tests.actors.saga.domain import (
    Approve,
    Back,
    Begin,
    Ended,
    Failed,
    Hurry,
    Letter,
    Note,
    Posted,
    Short,
    Store,
    Take,
    Taken,
    post,
)

Result = Ended | Short | Failed | Undelivered | Cancelled


class Two(Saga):
    """Takes twice; both can be undone."""

    @run
    async def two(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Take a, then b."""
        for key in ("a", "b"):
            await ctx.require(Store.take, key, Take(), undo=ctx.call(Store.back, key, Back()))
        return Ended()


class Pivoting(Saga):
    """Takes, gives for good, takes."""

    @run
    async def pivoting(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Only what is taken behind the pivot can be undone once that was applied."""
        await ctx.require(Store.take, "a", Take(), undo=ctx.call(Store.back, "a", Back()))
        await ctx.require(Store.take, "p", Take(), undo=PIVOT)
        await ctx.require(Store.take, "b", Take(), undo=ctx.call(Store.back, "b", Back()))
        await ctx.require(Store.take, "c", Take(), undo=None)
        return Ended()


class Keeping(Saga):
    """Keeps what was taken first."""

    @run
    async def keeping(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """A time-out before is undone all the same."""
        await ctx.ask(Store.take, "late", Take(), undo=ctx.call(Store.back, "late", Back()), timeout_s=10)
        await ctx.require(Store.take, "a", Take(), undo=ctx.call(Store.back, "a", Back()))
        ctx.keep()
        await ctx.require(Store.take, "b", Take(), undo=ctx.call(Store.back, "b", Back()))
        return Failed()


class Several(Saga):
    """Takes three at once."""

    @run
    async def several(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """All, or none."""
        await ctx.gather(
            *(ctx.require(Store.take, key, Take(), undo=ctx.call(Store.back, key, Back())) for key in ("a", "b", "c"))
        )
        return Ended(text=ctx.new_id())


class Racing(Saga):
    """The first of an ask, an effect, an approval and an hour."""

    approve = signal(Approve)
    hurry = signal(Hurry)

    @run
    async def racing(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Say who was first."""
        won = await ctx.first(
            ctx.ask(Store.take, "a", Take(), undo=ctx.call(Store.back, "a", Back())),
            ctx.perform(post, Letter(), undo=ctx.call(post, Letter(to="sorry"))),
            ctx.signal(Approve),
            ctx.sleep(3_600),
        )
        await ctx.signal(Hurry)
        return Ended(text=type(won).__name__)


class Late(Saga):
    """Asks with a time-out."""

    @run
    async def late(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Go on without it."""
        answer = await ctx.ask(Store.take, "a", Take(), undo=ctx.call(Store.back, "a", Back()), timeout_s=60)
        if isinstance(answer, TimedOut):
            await ctx.ask(Store.note, "n", Note(text=ctx.timestamp.isoformat()), undo=None)
        return Ended(text=type(answer).__name__)


class Approved(Saga, signals_max=3):
    """Waits for two approvals."""

    approve = signal(Approve)

    @run
    async def approved(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Say by whom."""
        await ctx.ask(Store.note, "n", Note(), undo=None)
        first = await ctx.signal(Approve)
        second = await ctx.signal(Approve)
        return Ended(text=f"{first.by} {second.by}")


class Again(Saga, steps_max=3):
    """Takes once a run, and begins anew until its number is 0."""

    approve = signal(Approve)

    @run
    async def again(self, cmd: Begin, ctx: SagaContext) -> Result:
        """Reject in the end."""
        key = f"k{cmd.number}"
        await ctx.require(Store.take, key, Take(), undo=ctx.call(Store.back, key, Back()))
        if cmd.number:
            return ctx.again(Begin(number=cmd.number - 1))
        await ctx.signal(Approve)
        return Failed()


class Endless(Saga):
    """Keeps what it does and begins anew, for ever."""

    @run
    async def endless(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Take."""
        await ctx.require(Store.take, "a", Take(), undo=ctx.call(Store.back, "a", Back()))
        await ctx.require(Store.take, "p", Take(), undo=PIVOT)
        await ctx.require(Store.take, "b", Take(), undo=ctx.call(Store.back, "b", Back()))
        ctx.keep()
        return ctx.again(Begin())


class Addressed(Saga):
    """Asks about the address of an object."""

    @run
    async def addressed(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Not twice the same."""
        await ctx.ask(Store.note, "n", Note(text="the same"), undo=None)
        await ctx.ask(Store.note, "n", Note(text=repr(object())), undo=None)
        return Ended()


class Hashed(Saga):
    """Asks a key that is made of the order of a set."""

    @run
    async def hashed(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Another process has another order."""
        await ctx.ask(Store.note, "key-" + "".join({*"0123456789"}), Note(), undo=None)
        return Ended()


class Posting(Saga):
    """Performs an effect."""

    @run
    async def posting(self, _cmd: Begin, ctx: SagaContext) -> Result:
        """Undo it by another letter."""
        posted: Posted | Undelivered | None = await ctx.perform(post, Letter(), undo=ctx.call(post, Letter(to="sorry")))
        answer = await ctx.ask(Store.take, "a", Take(), undo=None)
        return Ended(text=repr(posted)) if isinstance(answer, Taken) else Failed()
