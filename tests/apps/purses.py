"""Purses of money that reject, fail, answer late or not at all, as they are told; and payments in the world outside."""

from __future__ import annotations

from typing import Self

import msgspec

from repertory import Backoff, Command, Context, Entity, Event, Rejection, Request, Sender, command, effect, event


class Fill(Command):
    """Put in cash."""

    amount: int


class Lock(Command):
    """Refuse to take back, and to give, until it is unlocked."""

    locked: bool


class Take(Command):
    """Take out, for a saga. ``how``: see `misbehave`; "late" answers after half a second, "silent" when it is woken."""

    amount: int
    by: str
    how: str = ""


class Put(Command):
    """Put in, for a saga."""

    amount: int
    by: str
    how: str = ""


class Back(Command):
    """Undo `Take`."""

    amount: int
    by: str


class Unput(Command):
    """Undo `Put`."""

    amount: int
    by: str


class Wake(Command):
    """Answer the first who was postponed."""


class Filled(Event):
    """Cash is in."""

    amount: int


class Locked(Event):
    """It is locked, or not."""

    locked: bool


class Taken(Event):
    """It is out. ``woken``: of one who was postponed."""

    amount: int
    by: str
    woken: bool = False


class Given(Event):
    """It is in."""

    amount: int
    by: str


class Postponed(Event):
    """It is answered later."""

    sender: Sender
    amount: int
    by: str


class Woken(Event):
    """One who was postponed was told that it is poor."""


class Poor(Rejection):
    """There is not so much in it."""


class IsLocked(Rejection):
    """It is locked."""


class Purse(Entity):
    """Money. ``held``: by saga, what it has taken out and not put back."""

    money: int = 0
    cash: int = 0
    locked: bool = False
    held: dict[str, int] = msgspec.field(default_factory=dict)
    kept: tuple[Postponed, ...] = ()

    @command
    def fill(self, cmd: Fill) -> Filled:
        """Put in cash."""
        return Filled(amount=cmd.amount)

    @command
    def lock(self, cmd: Lock) -> Locked:
        """Lock or unlock."""
        return Locked(locked=cmd.locked)

    @command
    def take(self, cmd: Take, ctx: Context) -> Taken | Postponed | Poor:
        """Take out."""
        misbehave(cmd.how, ctx)
        if cmd.how in ("late", "silent") and (sender := ctx.sender) is not None:
            if cmd.how == "late":
                ctx.schedule("wake", Purse.wake, Wake(), after_s=0.5)
            return Postponed(sender=sender, amount=cmd.amount, by=cmd.by)
        return Poor() if self.money < cmd.amount else Taken(amount=cmd.amount, by=cmd.by)

    @command
    def put(self, cmd: Put, ctx: Context) -> Given | IsLocked:
        """Put in."""
        misbehave(cmd.how, ctx)
        return IsLocked() if self.locked else Given(amount=cmd.amount, by=cmd.by)

    @command
    def back(self, cmd: Back) -> Given | IsLocked:
        """Put back."""
        return IsLocked() if self.locked else Given(amount=cmd.amount, by=cmd.by)

    @command
    def unput(self, cmd: Unput) -> Taken | Poor:
        """Take back."""
        return Poor() if self.money < cmd.amount else Taken(amount=cmd.amount, by=cmd.by)

    @command
    def wake(self, _cmd: Wake, ctx: Context) -> Taken | Woken | Poor | None:
        """Answer the first who was postponed."""
        if not self.kept:
            return None
        first = self.kept[0]
        if len(self.kept) > 1:
            ctx.schedule("wake", Purse.wake, Wake(), after_s=0.2)
        if self.money < first.amount:
            ctx.reply(Poor(), to=first.sender)
            return Woken()
        taken = Taken(amount=first.amount, by=first.by, woken=True)
        ctx.reply(taken, to=first.sender)
        return taken

    @event
    def filled(self, evt: Filled) -> Self:
        """More cash."""
        return self.replace(money=self.money + evt.amount, cash=self.cash + evt.amount)

    @event
    def was_locked(self, evt: Locked) -> Self:
        """Remember."""
        return self.replace(locked=evt.locked)

    @event
    def taken(self, evt: Taken) -> Self:
        """Less money."""
        return self._moved(evt.by, evt.amount).replace(kept=self.kept[1:] if evt.woken else self.kept)

    @event
    def given(self, evt: Given) -> Self:
        """More money."""
        return self._moved(evt.by, -evt.amount)

    @event
    def postponed(self, evt: Postponed) -> Self:
        """Remember who waits."""
        return self.replace(kept=(*self.kept, evt))

    @event
    def woken(self, _evt: Woken) -> Self:
        """Forget who waited."""
        return self.replace(kept=self.kept[1:])

    def _moved(self, by: str, amount: int) -> Self:
        held = {**self.held, by: self.held.get(by, 0) + amount}
        return self.replace(money=self.money - amount, held={key: each for key, each in held.items() if each})


def misbehave(how: str, ctx: Context) -> None:
    """Fail: at each attempt until an operator acts, or for good, or once."""
    match how:
        case "park":
            raise ValueError("not before somebody looks at it")
        case "hopeless":
            raise KeyError("never")
        case "once" if ctx.attempt == 1:
            raise RuntimeError("not at once")


class Pay(Request):
    """Pay somebody outside."""

    amount: int


class Mail(Request):
    """Write a letter."""

    text: str


class Paid(Event):
    """It was paid."""

    amount: int


class Declined(Rejection):
    """It was not."""


@effect(timeout_s=5, attempts=3, backoff=Backoff(first_s=0.05, max_s=0.5), name="purses.pay")
async def pay(do: Pay) -> Paid | Declined:
    """Simulated: its results are drawn."""
    return Paid(amount=do.amount)


@effect(timeout_s=5, attempts=3, backoff=Backoff(first_s=0.05, max_s=0.5), name="purses.unpay")
async def unpay(do: Pay) -> Paid | Declined:
    """Undo `pay`. Simulated: its results are drawn."""
    return Paid(amount=-do.amount)


@effect(timeout_s=2, attempts=2, backoff=Backoff(first_s=0.01, max_s=0.1), name="purses.mail")
async def mail(do: Mail) -> None:
    """Simulated."""
