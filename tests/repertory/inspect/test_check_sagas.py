"""``check --log`` replays every running saga on the build at hand, before it is deployed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from typer.testing import CliRunner

from repertory import (
    ActorSystem,
    Cancelled,
    Command,
    Entity,
    Event,
    Rejection,
    Saga,
    SagaContext,
    Undelivered,
    command,
    event,
    restart,
    run,
    signal,
)
from repertory.actors.headers import ABOUT
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.cli import builds
from repertory.cli.app import app
from repertory.inspect.builds import Flaw, flaws


def build(
    *, times: int = 1, key: str = "tea", version: int = 1, fails: bool = False, taken_by: bool = False,
    keeps_undo: bool = True, all_at_once: bool = False,
) -> ActorSystem:  # fmt: skip
    """Return a build whose saga takes ``times`` what is ordered from the stock ``key``, and waits for a signal."""

    class Take(Command):
        count: int

    class GiveBack(Command):
        count: int

    class Taken(Event):
        count: int
        if taken_by:
            by: str

    class TakenAll(Event):
        count: int

    class Short(Rejection):
        pass

    class Stock(Entity):
        left: int = 100

        if all_at_once:

            @command
            def take(self, cmd: Take) -> TakenAll | Short:
                return TakenAll(count=cmd.count)

            @event
            def taken_all(self, _evt: TakenAll) -> Self:
                return self.replace(left=0)
        else:

            @command
            def take(self, cmd: Take) -> Taken | Short:
                return msgspec.convert({"type": "Taken", "count": cmd.count, "by": "eve"}, Taken)

        if keeps_undo:

            @command
            def give_back(self, cmd: GiveBack) -> Taken:
                return msgspec.convert({"type": "Taken", "count": -cmd.count, "by": "eve"}, Taken)

        @event
        def taken(self, evt: Taken) -> Self:
            return self.replace(left=self.left - evt.count)

    class Place(Command):
        count: int

    class Go(Command):
        pass

    class Placed(Event):
        pass

    class Order(Saga):
        go = signal(Go)

        @run(version=version)
        async def place(self, cmd: Place, ctx: SagaContext) -> Placed | Short | Undelivered | Cancelled:
            give_back: Any = vars(Stock).get("give_back")
            undo = None if give_back is None else ctx.call(give_back, key, GiveBack(count=cmd.count))
            await ctx.require(Stock.take, key, Take(count=times * cmd.count), undo=undo)
            if fails:
                raise ValueError("a bug")
            await ctx.signal(Go)
            return Placed()

    system = ActorSystem("shop")
    system.host(Stock, partitions=1)
    system.host(Order, partitions=1, supervise=restart(max_restarts=0))
    return system


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log."""
    return f"sqlite:{tmp_path}/shop.db"


def work(system: ActorSystem, url: str) -> None:
    """Let a build begin two sagas."""
    place: Any = next(vars(each)["place"] for each in system.hosted if issubclass(each, Saga))
    with system.start(url) as running:
        for name in ("o-1", "o-2"):
            running.client.tell(place, name, place.message_types[0](count=3))
        running.settle()
        assert all(each.phase == "running" or each.stash for each in running.sagas())


def found(system: ActorSystem, url: str) -> list[Flaw]:
    """Return what a build could not go on with."""
    backend = connect(url)
    reader, catalogue = backend.reader(), system.catalogue(backend)
    try:
        return flaws(reader, system, catalogue.schemas())
    finally:
        catalogue.close()
        reader.close()
        backend.close()


def test_a_build_goes_on_with_its_own_sagas(url: str) -> None:
    """An answer to a step that is not handled yet is of a type that no entity takes; nothing is wrong with it."""
    work(build(), url)
    backend = connect(url)
    appender = backend.appender()

    class Taken(Event):
        count: int

    appender.append([Output("shop.order.commands", 0, b"o-1", encode(Taken(count=3)), ((ABOUT, b"~0/0"),))])
    appender.close()
    backend.close()
    assert found(build(), url) == []


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"times": 2}, "step 0: recorded require stock.take 'tea' of "),
        ({"key": "coffee"}, "recorded require stock.take 'tea', now require stock.take 'coffee'"),
        ({"version": 2}, "begun with version 1 of its code, and this build has 2; keep the @run(version=1)"),
        ({"fails": True}, "version 1 of its code raises ValueError: a bug"),
        ({"keeps_undo": False}, "the undo of step 0 cannot be read by stock: unknown type 'GiveBack'"),
    ],
)  # fmt: skip
def test_what_a_build_cannot_go_on_with_is_named(url: str, other: dict[str, Any], what: str) -> None:
    """Which step, what was recorded and what there is now: once for all sagas that fail alike, and for the first."""
    work(build(), url)
    (flaw,) = (each for each in found(build(**other), url) if each.name == "order")
    assert what in flaw.what
    assert flaw.then.startswith("its key waits for a build" if "version" in other else "its key is parked")
    assert (flaw.where, flaw.records) == ("order 'o-1'", 2)


def test_an_answer_that_cannot_be_read_any_more_is_named(url: str) -> None:
    """It has a field too few for this build."""
    work(build(), url)
    wrong = {flaw.name: flaw.what for flaw in found(build(taken_by=True), url)}
    assert "missing required field `by`" in wrong["order"]
    assert wrong["order"].startswith("what it has recorded cannot be read")


def test_an_answer_of_a_type_that_only_another_build_has_is_waited_for(url: str) -> None:
    """As a command of such a type is: in a rolling deploy the receiver may be newer than the saga."""
    work(build(all_at_once=True), url)
    (flaw,) = (each for each in found(build(), url) if each.name == "order")
    assert flaw.what == "an answer cannot be read by this build: unknown type 'TakenAll'"
    assert flaw.then == "its key waits for a build that has it"


def test_a_mended_build_goes_on_with_the_answer_that_its_code_could_not_take(url: str) -> None:
    """That answer is stashed, so it is replayed too: a build with the bug is named, and the mended one is not."""
    work(build(fails=True), url)
    (flaw,) = found(build(fails=True), url)
    assert "raises ValueError: a bug" in flaw.what
    assert found(build(), url) == []


def test_the_classes_are_shown_as_the_user_wrote_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a saga its versions, its start and its signals; not what the runtime sends it."""
    system = build(version=3)
    monkeypatch.setattr(builds, "configured", lambda _target: system)
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["check", "m:s"]).output
    assert re.search(r"│ order +│ saga, version 3 +│ 1 +│ Place, Go +│ its steps", shown), shown
    assert "repertory." not in shown
