"""Effects of a shard: when they start, what settles them, and what a crash must not change."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory import (
    Backoff,
    Command,
    Context,
    Entity,
    Event,
    Rejection,
    Request,
    Undelivered,
    command,
    effect,
    event,
    reply,
)
from repertory.actors import effect as effects_of_this_build
from repertory.actors.control import DropEffect, RetryEffect
from repertory.actors.effect import Effect
from repertory.actors.headers import ABOUT, BECAUSE, CAUSE, EFFECT, EPOCH
from repertory.actors.shard.changelog import (
    CHANGELOG_INDEX,
    NOT_IN_BUILD,
    EffectRecord,
    effect_key,
    encode_changelog_record,
    first_shard_record,
)
from repertory.actors.shard.config import AT_LEAST_ONCE, Limits
from repertory.actors.shard.effect_settler import EffectDeath
from repertory.actors.shard.effects import EffectOutcome, Effects
from repertory.actors.wire import DecodeError
from repertory.bridge.changelog_codec import decode_effect
from repertory.bridge.journal import Inconsistent
from tests.actors.shard.bench import Bench

#: How long a failed attempt waits.
BACKOFF_MS = 1_000


class Pay(Request):
    """Take some money."""

    amount: int


class Note(Request):
    """Write something down."""


class Paid(Event):
    """It was taken."""

    amount: int


class Refused(Rejection):
    """It was not."""

    why: str = ""


@effect(timeout_s=10, attempts=3, backoff=Backoff(first_s=BACKOFF_MS / 1_000, factor=1, max_s=1, jitter=0))
async def pay(do: Pay) -> Paid | Refused:
    """Never called here."""
    return Paid(amount=do.amount)


@effect(timeout_s=10, attempts=1)
async def note(do: Note) -> Paid | None:
    """Never called here."""


class Order(Command):
    """Perform `pay` with each amount; 0: perform `note`."""

    amounts: tuple[int, ...]
    stops: bool = False
    about: str = ""


class Settled(Event):
    """A result was taken."""

    what: str
    amount: int
    about: str


class Shop(Entity):
    """Performs effects, and journals their results."""

    settled: int = 0

    @command
    def order(self, cmd: Order, ctx: Context) -> None:
        """Perform."""
        for amount in cmd.amounts:
            if amount:
                ctx.perform(pay, Pay(amount=amount), about=cmd.about)
            else:
                ctx.perform(note, Note())
        if cmd.stops:
            ctx.stop()

    @reply
    def paid(self, evt: Paid | Refused | Undelivered, ctx: Context) -> Settled:
        """Journal it."""
        amount = evt.amount if isinstance(evt, Paid) else -1
        if amount == 913:
            raise ValueError("unlucky")
        return Settled(what=type(evt).__name__, amount=amount, about=ctx.about)

    @event
    def was_settled(self, evt: Settled) -> Self:
        """Count it."""
        return self.replace(settled=self.settled + 1)


def shop(**options: Any) -> Bench:
    """Return a bench with one shard of shops, and the first owner."""
    bench = Bench(Shop, **options)
    bench.take_over("node-1")
    return bench


def settled(bench: Bench) -> list[tuple[str, int]]:
    """Return the results that were taken, in order."""
    return [(each["what"], each["amount"]) for each in bench.journal if each["type"] == "Settled"]


def results(bench: Bench) -> list[Any]:
    """Return the commands that bring results."""
    return [record for record in bench.topics[bench.codec.commands] if record.header(EFFECT)]


def startable(bench: Bench, count_max: int = 100) -> list[str]:
    """Return what can be started now."""
    return bench.shard.effects.startable(bench.now_ms, count_max)


def start(bench: Bench, count_max: int = 100) -> list[EffectOutcome]:
    """Start what can be started; return an outcome for each, that of one which returned None."""
    effects = bench.shard.effects
    return [
        EffectOutcome(place, effects.started(place).attempt, effects.epoch) for place in startable(bench, count_max)
    ]


def start_one(bench: Bench) -> EffectOutcome:
    """Start the only one that can be started; return its outcome, as `start` does."""
    found = start(bench)
    assert len(found) == 1, found
    return found[0]


def paid(bench: Bench, outcome: EffectOutcome) -> EffectOutcome:
    """Return the outcome of one that returned what it was asked for."""
    request: Any = msgspec.msgpack.decode(bench.shard.effects.records[outcome.place].request)
    return msgspec.structs.replace(outcome, result=Paid(amount=request["amount"]))


def failed(outcome: EffectOutcome) -> EffectOutcome:
    """Return the outcome of one that raised."""
    return msgspec.structs.replace(outcome, error="OSError", reason="no answer", traceback="a trace")


def open_records(bench: Bench) -> list[EffectRecord]:
    """Return the open effects, in order."""
    return sorted(bench.shard.effects.records.values(), key=lambda each: (each.offset, each.index))


def open_record(bench: Bench) -> EffectRecord:
    """Return the only open effect."""
    found = open_records(bench)
    assert len(found) == 1, found
    return found[0]


# --- a result -------------------------------------------------------------------------------------------------


def test_a_result_is_a_command_of_its_entity() -> None:
    """Its record names its effect and the command because of which it was sent; it has the number of a changelog."""
    bench = shop()
    offset = bench.tell(Order(amounts=(5,), about="rent"))
    bench.run()
    outcome = start_one(bench)
    assert startable(bench) == []
    assert not bench.shard.ready(bench.now_ms)
    assert bench.shard.finished(paid(bench, outcome))
    assert bench.shard.ready(bench.now_ms)
    bench.run()
    assert settled(bench) == [("Paid", 5)]
    assert bench.journal[0]["about"] == "rent"
    (result,) = results(bench)
    assert [name for name, _ in result.headers] == [CAUSE, BECAUSE, EFFECT, ABOUT]
    assert (result.header(EFFECT), result.header(ABOUT), result.key) == (b"pay", b"rent", b"k")
    assert result.header(BECAUSE) == b"t.shop.commands/0/%d/0" % offset
    assert int((result.header(CAUSE) or b"").rsplit(b"/", 1)[1]) >= CHANGELOG_INDEX
    causes = [*bench.causes(), result.header(CAUSE) or b""]
    assert len(causes) == len({*causes})
    bench.crash()
    assert open_records(bench) == []


def test_an_effect_that_returns_nothing_answers_nobody() -> None:
    """Its record is removed, also in a turn that handles no command."""
    bench = shop()
    bench.tell(Order(amounts=(0,)))
    bench.run()
    outcome = start_one(bench)
    bench.shard.finished(outcome)
    assert bench.turn() is not None
    assert open_records(bench) == []
    assert results(bench) == []
    bench.crash()
    assert open_records(bench) == []
    assert not bench.shard.ready(bench.now_ms)


def test_an_effect_outlives_its_entity() -> None:
    """It is performed in the turn that stops; the next life takes the result."""
    bench = shop()
    bench.tell(Order(amounts=(5,), stops=True))
    bench.run()
    outcome = start_one(bench)
    bench.shard.finished(paid(bench, outcome))
    bench.run()
    assert settled(bench) == [("Paid", 5)]


def test_nothing_starts_before_its_command_is_committed() -> None:
    """Nor before the effect in front of it is settled and that is committed."""
    bench = shop()
    bench.tell(Order(amounts=(5, 6)))
    bench.fetch()
    result = bench.shard.decide(bench.now_ms)
    assert result is not None
    assert startable(bench) == []
    assert bench.shard.effects.next_due_ms() is None
    bench.commit(result)
    assert bench.shard.effects.next_due_ms() == 0
    outcome = start_one(bench)
    bench.shard.finished(paid(bench, outcome))
    assert startable(bench) == []
    result = bench.shard.decide(bench.now_ms)
    assert result is not None
    assert startable(bench) == []
    bench.commit(result)
    assert startable(bench) == [effect_key(0, 1)]


def test_results_are_settled_in_bounded_batches() -> None:
    """So commands do not wait for thousands of them."""
    bench = shop(limits=Limits(timers_per_turn_max=10))
    for number in range(25):
        bench.tell(Order(amounts=(number + 1,)), key=f"k{number}")
    bench.run()
    for outcome in start(bench):
        assert bench.shard.finished(paid(bench, outcome))
    sizes = []
    while bench.shard.ready(bench.now_ms) and (result := bench.turn()) is not None:
        sizes.append(len(result.fired))
    assert sizes == [10, 10, 5]
    bench.run()
    assert sorted(settled(bench)) == [("Paid", number + 1) for number in range(25)]


# --- order ----------------------------------------------------------------------------------------------------


def test_the_effects_of_one_key_and_function_are_in_order() -> None:
    """Those of other keys and functions run beside them."""
    bench = shop()
    bench.tell(Order(amounts=(1, 2, 0)))
    bench.tell(Order(amounts=(3,)), key="other")
    bench.tell(Order(amounts=(4,)))
    bench.run()
    first = start(bench)
    assert [each.place for each in first] == [effect_key(0, 0), effect_key(0, 2), effect_key(1, 0)]
    bench.shard.finished(paid(bench, first[0]))
    bench.run()
    second = start_one(bench)
    assert second.place == effect_key(0, 1)
    bench.shard.finished(failed(second))
    bench.run()
    assert startable(bench) == [], "the first one waits for its next attempt, and the others behind it"
    bench.now_ms += BACKOFF_MS
    again = start_one(bench)
    assert again == msgspec.structs.replace(second, attempt=2)
    bench.shard.finished(paid(bench, again))
    bench.run()
    assert startable(bench) == [effect_key(2, 0)]
    assert settled(bench) == [("Paid", 1), ("Paid", 2)]


def test_a_parked_effect_is_overtaken() -> None:
    """The others of its key go on; when it is retried, it is the first again, after the one that runs."""
    bench = shop()
    bench.tell(Order(amounts=(1, 2, 3)))
    bench.run()
    for _ in range(3):
        outcome = start_one(bench)
        bench.shard.finished(failed(outcome))
        bench.run()
        bench.now_ms += BACKOFF_MS
    assert open_records(bench)[0].parked
    second = start_one(bench)
    assert second.place == effect_key(0, 1)
    bench.tell(RetryEffect(offset=0, index=0))
    bench.run()
    assert startable(bench) == []
    bench.shard.finished(paid(bench, second))
    bench.run()
    retried = start_one(bench)
    assert (retried.place, retried.attempt) == (effect_key(0, 0), 1)


def test_only_so_many_are_returned() -> None:
    """Those that were due first."""
    bench = shop()
    for number in range(5):
        bench.tell(Order(amounts=(1,)), key=f"k{number}")
    bench.run()
    assert startable(bench, 2) == [effect_key(0, 0), effect_key(1, 0)]
    assert len(startable(bench)) == 5
    assert len(start(bench, 2)) == 2
    assert startable(bench, 2) == [effect_key(2, 0), effect_key(3, 0)]


# --- failures -------------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_repeated_after_its_backoff() -> None:
    """The record says when, and why; a crash forgets neither the attempt nor the time."""
    bench = shop()
    bench.tell(Order(amounts=(5,)))
    bench.run()
    outcome = start_one(bench)
    bench.shard.finished(failed(outcome))
    result = bench.turn()
    assert result is not None
    assert [(each.error, each.outcome) for each in result.incidents] == [("OSError", "retried")]
    record = open_record(bench)
    assert (record.attempt, record.due_ms, record.error) == (2, bench.now_ms + BACKOFF_MS, "OSError")
    bench.take_over("node-2")
    assert open_records(bench) == [record]
    assert startable(bench) == []
    assert bench.shard.effects.next_due_ms() == record.due_ms
    bench.now_ms += BACKOFF_MS
    again = start_one(bench)
    assert again.attempt == 2


def test_an_effect_whose_attempts_are_spent_is_parked() -> None:
    """Its key goes on; the entity hears nothing before an operator drops it."""
    bench = shop()
    bench.tell(Order(amounts=(5,), about="rent"))
    bench.run()
    for attempt in (1, 2, 3):
        outcome = start_one(bench)
        assert outcome.attempt == attempt
        bench.shard.finished(failed(outcome))
        bench.run()
        bench.now_ms += BACKOFF_MS
    record = open_record(bench)
    assert (record.parked, record.attempt, record.reason) == (True, 3, "no answer")
    bench.take_over("node-2")
    assert startable(bench) == []
    assert settled(bench) == []
    bench.tell(DropEffect(offset=0, index=0, reason="too late"))
    bench.run()
    assert settled(bench) == [("Undelivered", -1)]
    assert bench.journal[0]["about"] == "rent"
    (result,) = results(bench)
    assert b"Dropped: too late (it failed: OSError: no answer)" in (result.value or b"")
    bench.crash()
    assert open_records(bench) == []


@pytest.mark.parametrize("result", [None, Settled(what="", amount=1, about=""), "text", Paid(amount=1 << 70)])
def test_a_result_that_cannot_be_sent_is_a_failed_attempt(result: object) -> None:
    """The annotation does not name it, or it cannot be encoded."""
    bench = shop()
    bench.tell(Order(amounts=(5,)))
    bench.run()
    outcome = start_one(bench)
    bench.shard.finished(msgspec.structs.replace(outcome, result=result))
    bench.run()
    record = open_record(bench)
    assert record.attempt == 2
    if not isinstance(result, Paid):
        assert record.reason == f"pay returned {type(result).__name__}; its annotation names Paid, Refused"


def test_a_result_that_is_too_large_is_a_failed_attempt() -> None:
    """As an output of a handler would be a failure."""
    bench = shop(limits=Limits(output_bytes_max=1_224))
    bench.tell(Order(amounts=(5,)))
    bench.run()
    outcome = start_one(bench)
    bench.shard.finished(msgspec.structs.replace(outcome, result=Refused(why="x" * 300)))
    bench.run()
    record = open_record(bench)
    assert (record.error, record.attempt) == ("repertory.actors.context.OutputTooLarge", 2)


def test_a_result_whose_handler_fails_is_stashed_as_any_command() -> None:
    """The effect is settled all the same."""
    bench = shop()
    bench.tell(Order(amounts=(913,)))
    bench.run()
    outcome = start_one(bench)
    bench.shard.finished(paid(bench, outcome))
    bench.run()
    assert open_records(bench) == []
    assert bench.shard.stash.size == 1


def test_no_room() -> None:
    """The handler fails with a sentence."""
    bench = shop(limits=Limits(effects_per_shard_max=2))
    bench.tell(Order(amounts=(1, 2)))
    bench.tell(Order(amounts=(3,)), key="other")
    bench.run()
    assert len(open_records(bench)) == 2
    (stashed,) = bench.shard.stash.queue("other")
    assert stashed.record.reason == "the shard has 2 effects that are not settled; effects_per_shard_max is 2"


# --- operators ------------------------------------------------------------------------------------------------


def test_an_operator_drops_one_that_runs() -> None:
    """Its outcome is ignored; the next one starts."""
    bench = shop()
    bench.tell(Order(amounts=(1, 2)))
    bench.run()
    outcome = start_one(bench)
    bench.tell(DropEffect(offset=0, index=0, reason="no"))
    bench.run()
    assert bench.shard.effects.running == {}
    assert not bench.shard.finished(paid(bench, msgspec.structs.replace(outcome, place=effect_key(0, 1))))
    assert not bench.shard.finished(outcome)
    assert startable(bench) == [effect_key(0, 1)]
    assert settled(bench) == [("Undelivered", -1)]


def test_an_operator_drops_one_that_has_just_ended() -> None:
    """There is one result: that it was dropped."""
    bench = shop()
    bench.tell(Order(amounts=(1,)))
    bench.run()
    outcome = start_one(bench)
    bench.shard.finished(paid(bench, outcome))
    bench.tell(DropEffect(offset=0, index=0, reason="no"))
    bench.run()
    assert settled(bench) == [("Undelivered", -1)]


@pytest.mark.parametrize("request_", [RetryEffect(offset=0, index=0), RetryEffect(offset=7, index=0)])
def test_a_retry_of_what_is_not_parked_is_ignored(request_: RetryEffect) -> None:
    """And so is what names the key of another entity."""
    bench = shop()
    bench.tell(Order(amounts=(1,)))
    bench.run()
    outcome = start_one(bench)
    bench.shard.finished(failed(outcome))
    bench.run()
    bench.tell(request_)
    bench.tell(DropEffect(offset=0, index=0, reason="no"), key="other")
    bench.run()
    record = open_record(bench)
    assert record.attempt == 2


# --- crashes and owners ---------------------------------------------------------------------------------------


def test_every_crash_leaves_one_result() -> None:
    """Before it starts, while it runs, with its result decided and not committed, and after that."""
    bench = shop()
    bench.tell(Order(amounts=(5,)))
    bench.run()
    bench.take_over("node-2")
    assert len(start(bench)) == 1
    bench.take_over("node-3")
    outcome = start_one(bench)
    bench.shard.finished(paid(bench, outcome))
    assert bench.shard.decide(bench.now_ms) is not None
    bench.take_over("node-4")
    outcome = start_one(bench)
    bench.shard.finished(paid(bench, outcome))
    bench.turn()
    bench.take_over("node-5")
    assert startable(bench) == []
    bench.run()
    bench.take_over("node-6")
    bench.run()
    assert settled(bench) == [("Paid", 5)]
    assert len(results(bench)) == 1


def test_what_another_owner_started_is_ignored() -> None:
    """Though the attempt is the same: its own is under way."""
    bench = shop()
    bench.tell(Order(amounts=(5,)))
    bench.run()
    lost = start_one(bench)
    bench.take_over("node-1")
    assert not bench.shard.finished(paid(bench, lost)), "it is not started here"
    own = start_one(bench)
    assert own.epoch > lost.epoch
    assert not bench.shard.finished(paid(bench, lost))
    assert bench.shard.finished(paid(bench, own))
    assert not bench.shard.finished(paid(bench, own)), "it has an outcome"
    bench.run()
    assert settled(bench) == [("Paid", 5)]


def test_no_effect_starts_before_the_takeover_is_committed() -> None:
    """Else two owners could have the same epoch."""
    bench = shop()
    bench.tell(Order(amounts=(5,)))
    bench.run()
    epochs = [bench.shard.effects.epoch]
    for _ in range(3):
        bench.crash()
        assert startable(bench) == []
        result = bench.shard.takeover_result([])
        assert result is not None
        assert startable(bench) == []
        bench.commit(result)
        assert len(startable(bench)) == 1
        epochs.append(bench.shard.effects.epoch)
    assert epochs == sorted({*epochs})


def test_a_shard_without_effects_writes_nothing_at_takeover() -> None:
    """As before there were effects."""
    bench = shop()
    bench.tell(Order(amounts=()))
    bench.run()
    bench.crash()
    assert bench.shard.takeover_result([]) is None


class Other(Request, name="Pay"):
    """What `Pay` is in a build that its requests do not fit."""

    currency: str


class Lost(Event):
    """What no method of `Shop` takes."""


async def _other_request(do: Other) -> Paid | Refused:
    """Never called."""


async def _other_result(do: Pay) -> Lost:
    """Never called."""


#: Builds that cannot run `pay`, and why not.
LACKING = {
    "the function": (None, "this build has no @effect of the name 'pay'"),
    "the request": (
        _other_request,
        "this build cannot read the request of pay: Object missing required field `currency` (18 bytes)",
    ),
    "the method": (_other_result, "shop of this build has no @reply method for Lost, which pay may answer"),
}


@contextmanager
def build_without(what: str) -> Iterator[str]:
    """Let a shard that is restored meanwhile be one of such a build; yield the reason."""
    function, reason = LACKING[what]
    others = {name: each for name, each in effects_of_this_build._effects.items() if name != "pay"}
    if function is not None:
        others["pay"] = Effect(
            function, inspect.currentframe(), timeout_s=1, attempts=1, backoff=Backoff(), name="pay"  # type: ignore[arg-type]
        )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(effects_of_this_build, "_effects", others)
        yield reason


def settle_all(bench: Bench) -> None:
    """Let all that can be started succeed, until nothing can."""
    while outcomes := start(bench):
        for outcome in outcomes:
            record = bench.shard.effects.records[outcome.place]
            assert bench.shard.finished(outcome if record.effect == "note" else paid(bench, outcome))
        bench.run()


@pytest.mark.parametrize("lacks", LACKING)
def test_an_effect_that_this_build_cannot_run_waits(lacks: str) -> None:
    """Its record says why, it holds up only its own queue, and an owner whose build can run it does so by itself."""
    bench = shop()
    bench.tell(Order(amounts=(5, 0, 6)))
    bench.tell(Order(amounts=(0,)), key="other")
    bench.run()
    for owner in ("node-2", "node-3"):
        with build_without(lacks) as reason:
            bench.take_over(owner)
            assert bench.shard.ready(bench.now_ms) == (owner == "node-2"), "it is written once"
            result = bench.turn()
            assert [each.outcome for each in result.incidents] == ["waits"] * 2 if result else owner == "node-3"
            settle_all(bench)
            assert startable(bench) == []
            assert bench.shard.effects.next_due_ms() is None
        first, second = open_records(bench)
        assert first.not_in_build
        assert second.not_in_build
        assert (first.error, first.reason, first.attempt, first.parked) == (NOT_IN_BUILD, reason, 1, False)
    bench.take_over("node-4")
    assert startable(bench) == [], "its record still says that it cannot be run"
    assert bench.shard.ready(bench.now_ms)
    bench.run()
    assert [each.error for each in open_records(bench)] == ["", ""]
    settle_all(bench)
    assert settled(bench) == [("Paid", 5), ("Paid", 6)]
    assert len(results(bench)) == 2


def test_an_operator_drops_one_that_this_build_cannot_run() -> None:
    """Before its record says so, and after that; the one behind it waits as it did."""
    for turns in (0, 1):
        bench = shop()
        bench.tell(Order(amounts=(5, 6)))
        bench.run()
        with build_without("the function"):
            bench.take_over("node-2")
            for _ in range(turns):
                bench.turn()
            bench.tell(DropEffect(offset=0, index=0, reason="no"))
            bench.run()
            assert settled(bench) == [("Undelivered", -1)]
            assert open_record(bench).not_in_build
        bench.take_over("node-3")
        bench.run()
        settle_all(bench)
        assert settled(bench) == [("Undelivered", -1), ("Paid", 6)]


def test_a_parked_effect_that_this_build_cannot_run_is_retried_by_one_that_can() -> None:
    """It stays parked until an operator acts; then it waits."""
    bench = shop()
    bench.tell(Order(amounts=(5,)))
    bench.run()
    for _ in range(3):
        bench.shard.finished(failed(start_one(bench)))
        bench.run()
        bench.now_ms += BACKOFF_MS
    with build_without("the function"):
        bench.take_over("node-2")
        bench.run()
        assert open_record(bench).parked
        bench.tell(RetryEffect(offset=0, index=0))
        bench.run()
        assert open_record(bench).not_in_build
        assert startable(bench) == []
    bench.take_over("node-3")
    bench.run()
    assert start_one(bench).attempt == 1


def test_a_suspect_that_this_build_cannot_run_holds_up_no_other() -> None:
    """It must run alone, and does not run."""
    bench = shop()
    bench.tell(Order(amounts=(5, 0)))
    bench.run()
    start(bench)
    with build_without("the function"):
        bench.crash()
        result = bench.shard.takeover_result([], [EffectDeath(effect_key(0, 0), is_sole=False)])
        assert result is not None
        bench.commit(result)
        bench.run()
        outcome = start_one(bench)
        assert outcome.place == effect_key(0, 1)
        bench.shard.finished(outcome)
        bench.run()
    bench.take_over("node-3")
    bench.run()
    record = open_record(bench)
    assert record.alone
    assert not record.not_in_build
    assert startable(bench) == [effect_key(0, 0)]


def test_what_a_build_lacks_is_written_in_bounded_batches() -> None:
    """So commands do not wait for thousands of records."""
    bench = shop(limits=Limits(timers_per_turn_max=10))
    for number in range(25):
        bench.tell(Order(amounts=(number + 1,)), key=f"k{number}")
    bench.run()
    with build_without("the function"):
        bench.take_over("node-2")
        sizes = []
        while bench.shard.ready(bench.now_ms) and (result := bench.turn()) is not None:
            sizes.append(len(result.incidents))
        assert sizes == [10, 10, 5]
    bench.take_over("node-3")
    bench.run()
    assert len(startable(bench)) == 25


@pytest.mark.parametrize("deaths_max", [1, 3])
def test_only_the_guilty_effect_is_parked_after_deaths(deaths_max: int) -> None:
    """Those that ran with others are tried one at a time, and no other beside them."""
    bench = shop(limits=Limits(deaths_max=deaths_max))
    for number in range(4):
        bench.tell(Order(amounts=(number + 1,)), key=f"k{number}")
    bench.run()
    guilty, parked, count = effect_key(1, 0), 0, 3
    while outcomes := start(bench, count):
        count, ran = 100, [each.place for each in outcomes]
        if guilty not in ran:
            for outcome in outcomes:
                bench.shard.finished(paid(bench, outcome))
            bench.run()
            continue
        assert len(ran) == 1 or not bench.shard.effects.records[guilty].alone
        bench.crash()
        result = bench.shard.takeover_result([], [EffectDeath(place, len(ran) == 1) for place in ran])
        assert result is not None
        parked += sum(each.outcome == "parked" for each in result.incidents)
        bench.commit(result)
    bench.run()
    assert sorted(settled(bench)) == [("Paid", 1), ("Paid", 3), ("Paid", 4)]
    record = open_record(bench)
    assert (record.parked, record.deaths, parked) == (True, deaths_max, 1)
    assert record.reason == f"{deaths_max} processes in a row died while it ran alone"


# --- the log --------------------------------------------------------------------------------------------------


def test_what_the_log_refuses_is_a_dead_letter() -> None:
    """The effect is settled, and the others are too; an operator can retry it."""
    bench = shop()
    for number in range(3):
        bench.tell(Order(amounts=(number + 1,), about="rent"), key=f"k{number}")
    bench.run()
    bench.shard._refused[effect_key(1, 0)] = "too large"
    for outcome in start(bench):
        bench.shard.finished(paid(bench, outcome))
    result = bench.turn()
    assert result is not None
    assert result.refused == (effect_key(1, 0),)
    bench.run()
    assert open_records(bench) == []
    assert settled(bench) == [("Paid", 1), ("Paid", 3)]
    (dead,) = bench.dead_letters
    assert (dead.key, dead.header(EFFECT), dead.header(ABOUT)) == (b"k1", b"pay", b"rent")
    assert bench.errors() == ["repertory.actors.context.OutputRefused"]


def test_at_least_once_every_change_is_a_transaction() -> None:
    """A result has no epoch: it never comes twice."""
    bench = shop(limits=Limits(delivery=AT_LEAST_ONCE))
    bench.tell(Order(amounts=(5, 6)))
    bench.fetch()
    result = bench.shard.decide(bench.now_ms)
    assert result is not None
    assert not result.nontransactional
    bench.commit(result)
    outcome = start_one(bench)
    bench.shard.finished(paid(bench, outcome))
    result = bench.shard.decide(bench.now_ms)
    assert result is not None
    assert not result.nontransactional
    bench.commit(result)
    (record,) = results(bench)
    assert record.header(EPOCH) is None


def test_a_torn_effect_is_refused() -> None:
    """Its record names a command that the shard record does not know; or it is missing."""
    bench = shop()
    bench.tell(Order(amounts=(5,)))
    bench.run()
    state = bench.topics[bench.codec.state]
    at = next(at for at, record in enumerate(state) if (record.key or b"").startswith(b"\0effect/"))
    found = decode_effect(state[at].value or b"")
    whole = state[at]
    torn = encode_changelog_record(msgspec.structs.replace(found, offset=77))
    state[at] = msgspec.structs.replace(whole, value=torn)
    with pytest.raises(Inconsistent, match="which command 77 made"):
        bench.crash()
    del state[at]
    with pytest.raises(Inconsistent, match="does not hold the records"):
        bench.crash()


def test_a_record_is_decoded_or_refused() -> None:
    """Whatever the bytes are."""
    record = EffectRecord("pay", "k", b"\x80", 3, 1, "rent", 2, 17, parked=True, error="OSError", alone=True)
    assert decode_effect(encode_changelog_record(record)) == record
    for data in (b"", b"\xc1", encode_changelog_record(first_shard_record())):
        with pytest.raises(DecodeError):
            decode_effect(data)


# --- at random ------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("order"), st.integers(0, 2), st.lists(st.integers(0, 3), max_size=3)),
        st.tuples(st.sampled_from(["start", "turn", "crash", "lose", "older", "wait"]), st.just(0), st.just([])),
        st.tuples(st.sampled_from(["paid", "failed", "stale"]), st.integers(0, 5), st.just([])),
        st.tuples(st.sampled_from(["drop", "retry"]), st.integers(0, 8), st.lists(st.integers(0, 2), min_size=1)),
    ),
    max_size=40,
)


@given(STEPS)
def test_at_random_each_effect_has_one_result(steps: list[tuple[str, int, list[int]]]) -> None:
    """Whatever is lost, repeated, dropped, retried and left to another build: in order per queue, and each once."""
    bench, number = shop(limits=Limits(timers_per_turn_max=2)), 1
    running: list[EffectOutcome] = []
    old: list[EffectOutcome] = []
    for kind, at, more in steps:
        match kind:
            case "start":
                running += start(bench, 2)
                _check_order(bench)
            case "crash" | "lose" | "older":
                if kind == "lose":
                    bench.fetch()
                    bench.shard.decide(bench.now_ms)
                old, running, number = [*old, *running], [], number + 1
                with build_without("the function") if kind == "older" else nullcontext():
                    bench.take_over(f"node-{number}")
            case "paid" | "failed" if running:
                _end(bench, running.pop(at % len(running)), fails=kind == "failed")
            case "stale" if old:
                assert not bench.shard.finished(old[at % len(old)])
            case _:
                _step(bench, kind, at, more)
    if bench.shard.effects.held:
        bench.take_over("node-last")
        running = []
    for outcome in running:
        _end(bench, outcome, fails=False)
    bench.run()
    while outcomes := start(bench):
        for outcome in outcomes:
            _end(bench, outcome, fails=False)
        bench.run()
        bench.now_ms += BACKOFF_MS
    _check(bench)


def _step(bench: Bench, kind: str, at: int, more: list[int]) -> None:
    match kind:
        case "order":
            bench.tell(Order(amounts=tuple(more)), key=f"k{at}")
        case "turn":
            bench.fetch()
            bench.turn()
        case "wait":
            bench.now_ms += BACKOFF_MS
        case "retry":
            bench.tell(RetryEffect(offset=at, index=more[0]), key=f"k{at % 3}")
        case "drop":
            bench.tell(DropEffect(offset=at, index=more[0], reason="no"), key=f"k{at % 3}")


def _check_order(bench: Bench) -> None:
    """Check that no two run of one key and function."""
    effects = bench.shard.effects
    queues = [(effects.records[place].key, effects.records[place].effect) for place in effects.running]
    assert len(queues) == len({*queues})


def _end(bench: Bench, outcome: EffectOutcome, *, fails: bool) -> None:
    record = bench.shard.effects.records.get(outcome.place)
    if record is None or record.effect == "note":
        bench.shard.finished(failed(outcome) if fails else outcome)
    else:
        bench.shard.finished(failed(outcome) if fails else paid(bench, outcome))


def _check(bench: Bench) -> None:
    """Compare the results in the log with what was performed."""
    owed: dict[tuple[int, int], int] = {}
    brought: dict[tuple[int, int], int] = {}
    for record in bench.topics[bench.codec.commands]:
        if (because := record.header(BECAUSE)) is not None:
            cause = int(because.split(b"/")[2]), int(because.split(b"/")[3])
            assert cause not in brought, "it has two results"
            brought[cause] = record.offset
        elif isinstance(order := getattr(bench.codec.decode(record), "message", None), Order):
            owed |= {(record.offset, index): amount for index, amount in enumerate(order.amounts)}
    assert brought.keys() <= owed.keys()
    left = {(each.offset, each.index) for each in open_records(bench)}
    firsts: dict[tuple[str, str], EffectRecord] = {}  # Those behind them wait for their turn.
    for each in sorted(open_records(bench), key=lambda each: (each.offset, each.index)):
        if not each.parked:
            firsts.setdefault((each.key, each.effect), each)
    assert all(bench.now_ms < each.due_ms for each in firsts.values())
    assert not left & brought.keys()
    must_answer = {cause for cause, amount in owed.items() if amount}
    assert must_answer <= brought.keys() | left
    held: Effects = bench.shard.effects
    before = dict(held.records)
    bench.crash()
    assert bench.shard.effects.records == before
