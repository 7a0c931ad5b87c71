"""A saga whose version the owner's build lacks waits, visibly, and goes on by itself where an owner has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repertory import ActorSystem, Cancelled, Command, Done, Event, Saga, SagaContext, restart, run, signal
from repertory.bridge.reports import IncidentReport


def build(*versions: int) -> tuple[ActorSystem, Any]:
    """Return a build with these versions of a saga's code, and the saga."""

    class Begin(Command):
        pass

    class Go(Command):
        pass

    class Gone(Event):
        version: int

    class Walk(Saga):
        go = signal(Go)
        if 1 in versions:

            @run
            async def first(self, _cmd: Begin, ctx: SagaContext) -> Gone | Cancelled:
                await ctx.signal(Go)
                return Gone(version=1)

        if 2 in versions:

            @run(version=2)
            async def second(self, _cmd: Begin, ctx: SagaContext) -> Gone | Cancelled:
                await ctx.signal(Go)
                return Gone(version=2)

    system = ActorSystem("walks")
    system.host(Walk, partitions=1, supervise=restart(max_restarts=0))
    return system, Walk


def message(system: ActorSystem, name: str) -> Command:
    """Return a command of a build by its name."""
    (hosted,) = system.hosted.values()
    return next(each for each in hosted.behaviour.handlers if each.__name__ == name)()  # type: ignore[return-value]


def test_a_saga_waits_for_a_build_that_has_its_version(tmp_path: Path) -> None:
    """It is not parked, nobody has to act, and the log says so once, however often it is tried again."""
    url = f"sqlite:{tmp_path / 'walks.db'}"
    new, walk = build(1, 2)
    with new.start(url) as running:
        running.client.tell(walk.second, "w", message(new, "Begin"))
        running.settle()
    old, old_walk = build(1)
    reports: list[Any] = []
    with old.start(url) as running:
        running.report = reports.append
        running.client.tell(old_walk.go, "w", message(old, "Go"))
        while not any(each.stash is not None and each.stash.attempt == 3 for each in running.sagas()):
            running.tick(0.01)
        assert running.parked() == []
        (saga,) = running.sagas()
    assert saga.stash is not None
    assert (saga.phase, saga.stash.parked) == ("running", False)
    assert saga.stash.reason.startswith("Walk was begun with version 2 of its code, and this build has 1; keep the")
    (incident,) = (each for each in reports if isinstance(each, IncidentReport))
    assert incident.next == "its key waits for an owner whose build has it"
    with new.start(url) as running:
        running.settle()
        assert running.client.ask(walk.second, "w", message(new, "Begin")).version == 2


def test_a_saga_that_waits_for_a_build_can_be_cancelled(tmp_path: Path) -> None:
    """A cancel runs no code."""
    url = f"sqlite:{tmp_path / 'walks.db'}"
    new, walk = build(1, 2)
    with new.start(url) as running:
        running.client.tell(walk.second, "w", message(new, "Begin"))
        running.settle()
    old, old_walk = build(1)
    with old.start(url) as running:
        running.client.tell(old_walk.go, "w", message(old, "Go"))
        assert running.client.cancel(old_walk, "w", reason="rain") == Done()
        running.settle()
        assert [each.phase for each in running.sagas()] == ["undone"]
        assert running.parked() == []
