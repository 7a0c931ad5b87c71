"""What a saga waits for is found where it is: an effect, an ask behind a parked command, its own stash; any number."""

from __future__ import annotations

from typing import Self

from repertory import (
    ActorSystem,
    Backoff,
    Cancelled,
    Command,
    EffectContext,
    Entity,
    Event,
    Request,
    Saga,
    SagaContext,
    Undelivered,
    command,
    effect,
    restart,
    run,
)


class Charge(Request):
    """Take money."""


class Charged(Event):
    """It is taken."""


@effect(timeout_s=5, attempts=1, backoff=Backoff(first_s=0.01, max_s=0.01))
async def charge_nothing(do: Charge, fx: EffectContext) -> Charged:
    """Fail."""
    raise ConnectionError(f"the bank is away for {type(do).__name__} at attempt {fx.attempt}")


class Lock(Command):
    """Lock a door; one that is ``jammed`` fails."""

    jammed: bool = False


class Door(Entity):
    """A door."""

    is_locked: bool = False

    @command
    def lock(self, cmd: Lock) -> Self:
        if cmd.jammed:
            raise RuntimeError("the door is jammed")
        return self.replace(is_locked=True)


class Leave(Command):
    """Leave the house."""

    pay: bool
    bug: bool = False


class Left(Event):
    """Nobody is at home."""


class Exit(Saga, answer_bytes_max=1_000):
    """Leaving a house; its key is that of its door."""

    @run
    async def leave(self, cmd: Leave, ctx: SagaContext) -> Left | Undelivered | Cancelled:
        """Lock the door twice at once, or pay."""
        if cmd.pay:
            await ctx.perform(charge_nothing, Charge(), undo=None)
        await ctx.gather(
            ctx.require(Door.lock, ctx.key, Lock(), undo=None, about="front"),
            ctx.ask(Door.lock, "back", Lock(), undo=None, timeout_s=60),
        )
        if cmd.bug:
            raise ValueError("it is raining")
        return Left()


system = ActorSystem("house")
system.host(Door, partitions=1, supervise=restart(max_restarts=0))
system.host(Exit, partitions=1, supervise=restart(max_restarts=0))


def test_a_step_knows_where_its_message_is() -> None:
    """Behind a parked command of its receiver, at which offset and why; one that was handled is nowhere."""
    with system.start("memory:") as running:
        running.client.tell(Door.lock, "hall", Lock(jammed=True))
        running.settle()
        running.client.tell(Exit.leave, "hall", Leave(pay=False))
        running.settle()
        (saga,) = running.sagas()
        (wait,) = saga.waits
        assert (wait.n, wait.kind, wait.target, wait.key) == (0, "require", "door.lock", "hall")
        assert wait.place is not None
        assert (wait.place.first, wait.place.parked, wait.place.reason) == (0, True, "the door is jammed")
        assert wait.place.text == (
            "is stashed as 0@1 behind command 0, which is parked: RuntimeError: the door is jammed"
        )
        assert 0 < wait.since_ms == saga.since_ms
        (parked,) = running.parked()
        assert parked.askers == ("exit hall",)


def test_a_time_out_is_shown_until_it_is_over() -> None:
    """The steps that are open are those that count, with when each is due."""
    with system.start("memory:") as running:
        running.client.tell(Door.lock, "back", Lock(jammed=True))
        running.settle()
        running.client.tell(Exit.leave, "hall", Leave(pay=False))
        for _ in range(20):
            running.tick()
        (saga,) = running.sagas()
        (wait,) = saga.waits
        assert (wait.kind, wait.key, wait.due_ms - wait.since_ms) == ("ask", "back", 60_000)
        running.advance(61)
        (saga,) = running.sagas()
        assert (saga.phase, saga.waits) == ("done", ())


def test_an_effect_that_is_parked_is_named() -> None:
    """By its address, and with why it failed."""
    with system.start("memory:") as running:
        running.client.tell(Exit.leave, "hall", Leave(pay=True))
        while not any(each.parked for each in running.effects()):
            running.tick(0.01)
        (saga,) = running.sagas()
        (wait,) = saga.waits
        (parked,) = running.effects()
        assert wait.place is not None
        assert (wait.kind, wait.place.address, wait.place.parked) == ("perform", parked.address, True)
        assert wait.place.text.startswith(f"effect {parked.address} is parked: ConnectionError: the bank is away")


def test_a_saga_whose_code_fails_says_so() -> None:
    """The answer that it cannot take is stashed at its own key; it waits for nothing else."""
    with system.start("memory:") as running:
        running.client.tell(Exit.leave, "hall", Leave(pay=False, bug=True))
        running.settle()
        (saga,) = running.sagas()
        assert saga.stash is not None
        assert (saga.phase, saga.stash.parked, saga.stash.error) == ("running", True, "ValueError")
        assert len(saga.waits) == 1


def test_sagas_are_read_from_snapshots_and_the_journal_behind_them() -> None:
    """However many there are, and whatever was written meanwhile: each is what its shard has of it."""
    with system.start("memory:") as running:
        for number in range(300):
            running.client.tell(Exit.leave, f"door-{number}", Leave(pay=number % 10 == 0))
        while sum(each.parked for each in running.effects()) < 30:
            running.tick(0.01)
        running.crash()
        running.settle()
        phases = {each.key: each.phase for each in running.sagas()}
        assert sorted(phases) == sorted(f"door-{number}" for number in range(300))
        assert {key for key, phase in phases.items() if phase == "running"} == {f"door-{n}" for n in range(0, 300, 10)}
        for saga in running.sagas():
            state = running.state(Exit, saga.key)
            assert state is not None
            assert state.progress == saga.progress
