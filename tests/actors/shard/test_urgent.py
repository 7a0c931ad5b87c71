"""Commands of a saga that do not wait behind those of its key that are stashed, and what must not be dropped."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from repertory import Cancelled, Directive, Saga, SagaContext, Undelivered, restart, run, signal
from repertory.actors.context import OutputTooLarge
from repertory.actors.control import DropParked, RetryParked
from repertory.actors.saga.inner import StepAnswer
from repertory.actors.saga.messages import CancelSaga
from repertory.actors.saga.progress import SagaPhase
from repertory.actors.shard.config import Limits
from tests.actors.saga.domain import Approve, Back, Begin, Ended, Letter, Short, Store, Take, Taken, post
from tests.actors.shard.bench import Bench

POLICY = restart(on={ValueError: Directive.STOP, OutputTooLarge: Directive.ESCALATE})


class Careless(Saga, answer_bytes_max=100):
    """Takes, waits to be approved by somebody, and has a bug then. What it took is undone by a letter."""

    approve = signal(Approve)

    @run
    async def careless(self, cmd: Begin, ctx: SagaContext) -> Ended | Short | Undelivered | Cancelled:
        """Take, and wait."""
        await ctx.require(Store.take, "a", Take(), undo=ctx.call(post, Letter(to="sorry")))
        if cmd.number or (await ctx.signal(Approve)).by == "eve":
            raise ValueError("a bug")
        await ctx.require(Store.take, "b", Take(), undo=ctx.call(Store.back, "b", Back()))
        return Ended()


def parked(**limits: Any) -> Bench:
    """Return a saga that has taken something, and whose signal has parked it."""
    bench = Bench(Careless, others=[Store], policy=POLICY, limits=Limits(**limits))
    bench.tell(Begin())
    bench.run()
    bench.tell(Taken(), headers=(("about", b"~0/0"),))
    bench.tell(Approve(by="eve"))
    bench.run()
    (stashed,) = bench.shard.stash.queue("k")
    assert stashed.record.parked
    return bench


def phase(bench: Bench) -> SagaPhase:
    """Return what the saga does."""
    cell: Any = bench.shard.cells.get("k")
    found: SagaPhase = cell.state.progress.phase
    return found


def test_a_request_whose_failure_escalates_is_tried_again() -> None:
    """It is not lost, though commands of its key are stashed: the restarted shard begins with it."""
    bench = parked(output_bytes_max=4_000)
    bench.ask(CancelSaga(reason="\N{SNOWMAN}" * 999))
    bench.run()
    assert bench.shard.failure is not None
    bench.config = msgspec.structs.replace(bench.config, limits=Limits())
    bench.crash()
    bench.run()
    assert phase(bench) is SagaPhase.SETTLING
    assert [record.effect for record in bench.shard.effects.records.values()] == ["tests.post"]


def test_a_full_stash_stops_no_cancel() -> None:
    """A request to cancel needs no room, so it can free the saga that has filled it."""
    bench = parked(stash_per_key_max=1, stash_per_shard_max=1)
    bench.tell(CancelSaga())
    bench.run()
    assert (phase(bench), bench.shard.stash.size) == (SagaPhase.SETTLING, 0)


def test_what_is_parked_is_tried_again_behind_a_cancel() -> None:
    """The code that made it fail does not run any more; the signal comes too late."""
    bench = parked()
    bench.ask(CancelSaga(), correlation_id="cancel")
    bench.run()
    assert bench.shard.stash.size == 0
    assert [each["type"] for each in bench.replies] == ["Done"]
    assert not bench.dead_letters


def test_an_operator_cannot_drop_an_answer() -> None:
    """The saga would wait for it for ever. It is retried once its code is mended, or the saga is cancelled."""
    bench = Bench(Careless, others=[Store], policy=POLICY)
    bench.tell(Begin(number=1))
    bench.run()
    taken = bench.tell(Taken(), headers=(("about", b"~0/0"),))
    bench.settle()
    (stashed,) = bench.shard.stash.queue("k")
    assert isinstance(stashed.envelope.message, StepAnswer)
    bench.tell(DropParked(offset=taken, reason="it fails"))
    bench.run()
    assert bench.shard.stash.size == 1
    assert not bench.dead_letters
    bench.tell(RetryParked(offset=taken))
    bench.settle()
    assert bench.shard.stash.size == 1
    bench.tell(CancelSaga())
    bench.settle()
    assert bench.shard.stash.size == 0


class Broken(Saga):
    """Fails before its first step."""

    approve = signal(Approve)

    @run
    async def broken(self, cmd: Begin, ctx: SagaContext) -> Ended | Undelivered | Cancelled:
        """Has a bug."""
        if cmd.number and not Mended.yes:
            raise ValueError("a bug") if cmd.number == 1 else RuntimeError("not yet")
        await ctx.signal(Approve)
        return Ended()


class Mended:
    """Whether the bugs are mended."""

    yes = False


def unbegun(number: int, **limits: Any) -> Bench:
    """Return a saga whose start waits for a restart (2) or is parked (1); another asker, and a signal, wait behind."""
    bench = Bench(Broken, others=[Store], policy=POLICY, limits=Limits(**limits))
    for name in ("first", "second"):
        bench.ask(Begin(number=number), correlation_id=name)
    bench.ask(Approve(), correlation_id="signal")
    bench.run()
    assert (bench.shard.stash.size, bench.shard.stash.queue("k")[0].record.parked) == (3, number == 1)
    return bench


def answers(bench: Bench) -> dict[str, str]:
    """Return who was answered what."""
    found = {}
    for record in bench.topics["t.replies"]:
        name = (record.header("correlation-id") or b"").decode()
        assert name not in found, f"{name} is answered twice"
        found[name] = msgspec.msgpack.decode(record.value or b"")["type"]
    return found


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("crashes", [0, 1])
def test_a_cancel_drops_the_starts_of_a_saga_that_could_not_begin(
    number: int, crashes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cancels it is told that it is done, and mended code does not begin it; who started it knows that too."""
    bench = unbegun(number)
    cancel = bench.ask(CancelSaga(reason="wrong customer"), correlation_id="cancel")
    for _ in range(crashes):
        bench.fetch()
        bench.lose_turn()
    monkeypatch.setattr(Mended, "yes", True)
    bench.settle()
    assert bench.journal == []
    assert (bench.errors(), bench.shard.stash.size) == (["Cancelled"] * 2, 0)
    reasons = {record.header("error-message") for record in bench.dead_letters}
    assert reasons == {b"by command %d: wrong customer" % cancel}
    assert answers(bench) == {
        "first": "Undelivered", "second": "Undelivered", "signal": "repertory.no-such-saga", "cancel": "Done",
    }  # fmt: skip
    bench.ask(CancelSaga(), correlation_id="again")
    bench.ask(Begin(number=number), correlation_id="anew")
    bench.settle()
    assert answers(bench)["again"] == "repertory.no-such-saga"
    assert [each["type"] for each in bench.journal] == ["repertory.saga-began", "repertory.steps-opened"]


def test_starts_that_wait_behind_a_saga_that_runs_are_not_dropped() -> None:
    """They ask for its result, which is that it was cancelled."""
    bench = parked()
    bench.ask(Begin(), correlation_id="start")
    bench.ask(CancelSaga(), correlation_id="cancel")
    bench.run()
    assert (phase(bench), answers(bench), bench.errors()) == (SagaPhase.SETTLING, {"cancel": "Done"}, [])


def test_a_cancel_does_not_overtake_another_start() -> None:
    """There is no room for a start behind the parked one, and a cancel behind both: it would begin afterwards."""
    bench = unbegun(1, stash_per_key_max=3)
    bench.ask(Begin(number=1), correlation_id="third")
    bench.ask(CancelSaga(), correlation_id="cancel")
    bench.run()
    assert bench.shard.stalled is not None
    assert answers(bench) == {}
