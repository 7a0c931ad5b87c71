"""Timers and delayed messages of a shard: when they fire, what settles them, and what a crash must not change."""

from __future__ import annotations

from typing import Any, Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory import (
    Backoff,
    Command,
    Context,
    ContractViolation,
    Directive,
    Entity,
    Event,
    Rejection,
    command,
    event,
    restart,
)
from repertory.actors.control import RetryParked
from repertory.actors.headers import BECAUSE, CAUSE, TIMER
from repertory.actors.shard.changelog import CHANGELOG_INDEX, TimerRecord, tell_key, timer_key
from repertory.actors.shard.config import Limits
from repertory.actors.shard.timers import Timers
from repertory.actors.timer import FiredTimer
from repertory.actors.wire import DecodeError, encode
from repertory.bridge.changelog_codec import decode_owed
from repertory.bridge.journal import Inconsistent
from tests.actors.shard.bench import TIMESTAMP_MS, Bench


class Set(Command):
    """Schedule timer ``name``; ``at``: seconds after the bench's begin."""

    name: str = "a"
    at: int = 10
    every_s: float | None = None
    number: int = 0


class Unset(Command):
    """Cancel timer ``name``."""

    name: str = "a"


class Ring(Command):
    """What timers send. The command of ``number`` 913 fails."""

    name: str = "a"
    number: int = 0
    cancels: str = ""
    sets: int = 0


class Later(Command):
    """Send to ``key`` later."""

    key: str
    after_s: float


class End(Command):
    """Stop, and perhaps schedule."""

    sets: bool = False


class Rung(Event):
    """A timer has fired."""

    name: str
    number: int
    due_ms: int | None


class Deaf(Rejection):
    """Not now."""


class Clock(Entity):
    """Schedules timers, and journals what they send."""

    rung: tuple[str, ...] = ()

    @command
    def set(self, cmd: Set, ctx: Context) -> None:
        """Schedule."""
        ring = Ring(name=cmd.name, number=cmd.number)
        ctx.schedule(cmd.name, Clock.ring, ring, at_ms=TIMESTAMP_MS + cmd.at * 1_000, every_s=cmd.every_s)

    @command
    def unset(self, cmd: Unset, ctx: Context) -> None:
        """Cancel."""
        ctx.cancel(cmd.name)

    @command
    def ring(self, cmd: Ring, ctx: Context) -> Rung | Deaf:
        """Journal what rang, or reject it, or fail."""
        if cmd.number == 913:
            raise ValueError("unlucky")
        if cmd.number == 914:
            raise KeyError("hopeless")
        if cmd.number == 915:
            return Deaf()
        if cmd.cancels:
            ctx.cancel(cmd.cancels)
        if cmd.sets:
            ctx.schedule(cmd.name, Clock.ring, Ring(name=cmd.name, number=cmd.sets), after_s=5)
        return Rung(name=cmd.name, number=cmd.number, due_ms=ctx.due_ms)

    @command
    def later(self, cmd: Later, ctx: Context) -> None:
        """Send a delayed message."""
        ctx.tell(Clock.ring, cmd.key, Ring(name="told"), after_s=cmd.after_s)

    @command
    def end(self, cmd: End, ctx: Context) -> None:
        """Stop."""
        ctx.stop()
        if cmd.sets:
            ctx.schedule("a", Clock.ring, Ring(), after_s=1)

    @event
    def rang(self, evt: Rung) -> Self:
        """Remember it."""
        return self.replace(rung=(*self.rung, evt.name))


POLICY = restart(
    max_restarts=0, backoff=Backoff(first_s=0.1, jitter=0), on={ValueError: Directive.STOP, KeyError: Directive.RESUME}
)


def clock(**options: Any) -> Bench:
    """Return a bench with one shard of clocks."""
    return Bench(Clock, policy=POLICY, **options)


def rung(bench: Bench) -> list[tuple[str, int]]:
    """Return what rang, in order."""
    return [(each["name"], each["number"]) for each in bench.journal if each["type"] == "Rung"]


def after(bench: Bench, seconds: float) -> Bench:
    """Run at that time since the bench began."""
    bench.now_ms = TIMESTAMP_MS + round(seconds * 1_000)
    return bench.run()


# --- firing ---------------------------------------------------------------------------------------------------


def test_a_timer_fires_once_when_it_is_due() -> None:
    """Not before its time by the owner's clock; its command is a record, and its handler knows when it was due."""
    bench = clock()
    offset = bench.tell(Set(number=1))
    after(bench, 9.999)
    assert rung(bench) == []
    assert bench.shard.next_due_ms() == TIMESTAMP_MS + 10_000
    after(bench, 10)
    assert rung(bench) == [("a", 1)]
    assert bench.journal[0]["due_ms"] == TIMESTAMP_MS + 10_000
    (fired,) = [record for record in bench.topics[bench.codec.commands] if record.header(TIMER)]
    assert fired.header(TIMER) == b"%d/0/%d/a" % (offset, TIMESTAMP_MS + 10_000)
    assert fired.header(BECAUSE) == b"t.clock.commands/0/%d/0" % offset
    assert int((fired.header(CAUSE) or b"").rsplit(b"/", 1)[1]) >= CHANGELOG_INDEX
    after(bench, 1_000)
    assert rung(bench) == [("a", 1)]
    assert bench.shard.next_due_ms() is None
    causes = [*bench.causes(), fired.header(CAUSE) or b""]
    assert len(causes) == len({*causes})


def test_it_fires_once_over_every_crash() -> None:
    """Before it is due, when it is due, with its command in the log and not handled, and after that."""
    bench = clock()
    bench.tell(Set(number=1))
    bench.run()
    bench.crash()
    bench.now_ms += 20_000
    bench.lose_turn()
    bench.turn()
    bench.crash()
    assert rung(bench) == []
    bench.fetch()
    bench.lose_turn()
    bench.run()
    bench.crash()
    bench.run()
    assert rung(bench) == [("a", 1)]
    assert len([record for record in bench.topics[bench.codec.commands] if record.header(TIMER)]) == 1


def test_what_is_due_goes_in_bounded_batches_in_the_order_of_its_time() -> None:
    """Commands are handled between two of them."""
    bench = clock(limits=Limits(timers_per_turn_max=10))
    for number in range(25):
        bench.tell(Set(name=f"n{number:02}", number=number, at=10 - number // 10), key=f"k{number}")
    bench.run()
    bench.now_ms += 20_000
    bench.tell(Unset())
    bench.fetch()
    sizes = []
    while (result := bench.turn()) is not None:
        sizes.append((result.handled, len(result.fired)))
    assert sizes == [(1, 10), (0, 10), (0, 5)]
    bench.run()
    numbers = [number for _, number in rung(bench)]
    assert numbers == [*range(20, 25), *range(10, 20), *range(10)]


def test_a_timer_that_is_due_in_the_past_fires_at_once() -> None:
    """As that of a command that was long in the stash."""
    bench = clock()
    bench.tell(Set(at=-5, number=2))
    bench.run()
    assert rung(bench) == [("a", 2)]


def test_the_owners_clock_is_set_back() -> None:
    """Nothing is early by the clock of the owner."""
    bench = clock()
    bench.tell(Set())
    after(bench, 5)
    after(bench, -1_000)
    assert rung(bench) == []
    after(bench, 10)
    assert rung(bench) == [("a", 0)]


def test_a_recurring_timer_of_an_owner_whose_clock_is_ahead_fires_once_in_a_period() -> None:
    """Its next time counts from the log's, which is behind. When the clock is set right, that is when it fires."""
    bench = clock()
    bench.append = behind(bench)  # type: ignore[method-assign]
    bench.tell(Set(every_s=10, at=10))
    after(bench, 10)
    bench.now_ms += 3_600_000
    for times in range(2, 6):
        bench.run()
        assert len(rung(bench)) == times
        bench.now_ms += 9_000
        bench.run()
        assert len(rung(bench)) == times
        bench.now_ms += 2_000
        bench.crash()
    bench.now_ms = TIMESTAMP_MS + 60_000
    bench.run()
    assert len(rung(bench)) == 6


def behind(bench: Bench) -> Any:
    """Return an append whose log has the time of the begin, and a second more for each record."""
    append = bench.append

    def appended(output: Any) -> int:
        offset = append(output)
        records = bench.topics[output.topic]
        records[-1] = msgspec.structs.replace(records[-1], timestamp_ms=TIMESTAMP_MS + 1_000 * offset)
        return offset

    return appended


# --- cancel and replace ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("change", ["cancel", "replace", "stop"])
def test_cancel_and_replace_are_certain_after_it_fired(change: str, crashes: bool) -> None:  # noqa: FBT001
    """Its command is in the log behind that which cancels it: it is dropped, and counted."""
    bench = clock()
    bench.tell(Set(number=1))
    bench.run()
    bench.now_ms += 20_000
    bench.tell({"cancel": Unset(), "replace": Set(at=100, number=2), "stop": End()}[change])
    result = bench.turn()
    assert result is not None
    assert result.fired, "it fires before the command behind which its own will be"
    if crashes:
        bench.crash()
    bench.run()
    assert rung(bench) == []
    stale = [record for record in bench.topics[bench.codec.commands] if record.header(TIMER)]
    assert len(stale) == 1
    after(bench, 1_000)
    assert rung(bench) == ([("a", 2)] if change == "replace" else [])
    assert not bench.dead_letters


def test_the_name_of_a_cancelled_timer_can_be_used_again() -> None:
    """The generation is the cause of the timer, so the command of the first one is stale, though the second has fired.

    A turn handles one command, so that the second timer fires before the command of the first is reached.
    """
    bench = clock(limits=Limits(batch_records_max=1))
    bench.tell(Set(number=1))
    bench.run()
    bench.now_ms += 20_000
    bench.tell(Unset())
    bench.tell(Set(number=2))
    bench.turn()
    bench.crash()
    bench.run()
    assert rung(bench) == [("a", 2)]


def test_it_is_asked_again_at_the_retry() -> None:
    """A command of a timer that waits behind another one of its key is dropped if that one cancels the timer."""
    bench = clock()
    bench.tell(Set(number=1))
    bench.run()
    first = bench.tell(Ring(number=913, cancels="a"))
    bench.run()
    after(bench, 20)
    assert bench.shard.stash.size == 2
    Fixed.cancels(bench, first)
    assert rung(bench) == []
    assert bench.shard.stash.size == 0
    assert bench.shard.next_due_ms() is None


class Fixed:
    """Mends the handler, and has an operator retry what is parked."""

    @staticmethod
    def cancels(bench: Bench, offset: int) -> None:
        """Let the parked command cancel timer ``a`` instead of failing."""
        queue = bench.shard.stash.queue("k")
        stashed = queue[0]
        unset = encode(Unset())
        envelope = msgspec.structs.replace(stashed.envelope, message=Unset(), value=unset)
        queue[0] = msgspec.structs.replace(stashed, envelope=envelope)
        bench.tell(RetryParked(offset=offset))
        bench.run()


def test_the_timers_of_an_entity_end_with_its_life() -> None:
    """Those of other entities stay, and so does a delayed message."""
    bench = clock()
    bench.tell(Set(number=1))
    bench.tell(Set(name="b", number=2))
    bench.tell(Set(number=3), key="other")
    bench.tell(Later(key="k", after_s=5))
    bench.tell(End())
    after(bench, 20)
    assert sorted(rung(bench)) == [("a", 3), ("told", 0)]


# --- settling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 914, 915])
def test_every_final_fate_settles_a_timer(number: int) -> None:
    """Applied, dead-lettered, rejected: it is not fired again, also after a restore."""
    bench = clock()
    bench.tell(Set(number=number))
    after(bench, 20)
    bench.crash()
    after(bench, 40)
    assert len([record for record in bench.topics[bench.codec.commands] if record.header(TIMER)]) == 1
    assert len(bench.shard.timers) == 0
    assert bench.errors() == (["KeyError"] if number == 914 else [])


def test_it_is_settled_before_its_handler_schedules_it_again() -> None:
    """Else the new one would be taken for the old one."""
    bench = clock()
    offset = bench.tell(Set())
    bench.run()
    record = bench.shard.timers.records[timer_key("k", "a")]
    ring = encode(Ring(sets=7))
    bench.shard.timers.records[timer_key("k", "a")] = msgspec.structs.replace(record, value=ring)
    after(bench, 10)
    assert rung(bench) == [("a", 0)]
    assert offset == 0
    after(bench, 16)
    assert rung(bench) == [("a", 0), ("a", 7)]


def test_a_recurring_timer_counts_from_the_log_time_of_its_command() -> None:
    """What was missed is one, and it goes on whatever becomes of its command."""
    bench = clock()
    bench.tell(Set(number=914, every_s=10))
    after(bench, 35)
    fired = [record for record in bench.topics[bench.codec.commands] if record.header(TIMER)]
    assert len(fired) == 1
    assert bench.shard.next_due_ms() == fired[0].timestamp_ms + 10_000
    bench.now_ms = fired[0].timestamp_ms + 10_000
    bench.crash()
    bench.run()
    assert len(bench.dead_letters) == 2
    bench.tell(Unset())
    bench.run()
    assert bench.shard.next_due_ms() is None


def test_a_parked_command_settles_its_timer_when_an_operator_drops_it() -> None:
    """Until then its record stays: the command has no final fate."""
    bench = clock()
    bench.tell(Set(number=913))
    after(bench, 20)
    bench.crash()
    bench.run()
    assert len(bench.shard.timers) == 1
    assert bench.shard.stash.size == 1


def test_a_dead_letter_is_retried_though_its_timer_is_settled() -> None:
    """An operator wants it: it is handled, and settles nothing."""
    bench = clock()
    bench.tell(Set(number=914))
    after(bench, 20)
    (dead,) = bench.dead_letters
    headers = ((TIMER, dead.header(TIMER) or b""), ("retry-of", b"t.dead-letters/0/0"))
    bench.tell(Ring(name="again"), headers=headers)
    bench.run()
    assert rung(bench) == [("again", 0)]
    assert bench.journal[-1]["due_ms"] == TIMESTAMP_MS + 10_000


def test_a_command_that_this_build_cannot_read_settles_its_timer() -> None:
    """Or is dropped if its timer was cancelled."""
    bench = clock()
    bench.tell(Set())
    bench.tell(Set(name="b"))
    bench.run()
    for place, record in bench.shard.timers.records.items():
        bench.shard.timers.records[place] = msgspec.structs.replace(record, value=b"\xc1")
    bench.tell(Unset(name="b"))
    bench.now_ms += 20_000
    bench.turn()
    bench.run()
    assert bench.errors() == ["DecodeError"]
    assert len(bench.shard.timers) == 0


# --- delayed messages -----------------------------------------------------------------------------------------


def test_a_delayed_message_is_sent_once_without_a_header_of_a_timer() -> None:
    """It has the cause of a changelog record; it is sent in the order of the commands that send it."""
    bench = clock()
    for number in range(12):
        bench.tell(Later(key=f"k{number}", after_s=30 - number / 1_000), key="from")
    after(bench, 29)
    assert rung(bench) == []
    bench.crash()
    bench.now_ms = TIMESTAMP_MS + 40_000
    bench.lose_turn()
    bench.run()
    told = [record for record in bench.topics[bench.codec.commands] if record.header(BECAUSE)]
    assert [record.key for record in told] == [b"k%d" % number for number in range(12)]
    assert not any(record.header(TIMER) for record in told)
    assert len(rung(bench)) == 12
    bench.crash()
    bench.run()
    assert len(rung(bench)) == 12


# --- what the log refuses -------------------------------------------------------------------------------------


def test_what_the_log_refuses_is_a_dead_letter() -> None:
    """A timer, recurring or not, and a delayed message are given up, and the others are sent; a retry is handled."""
    bench = clock()
    for name in "abc":
        bench.tell(Set(name=name, every_s=5 if name == "b" else None))
    told = bench.tell(Later(key="k", after_s=5))
    bench.run()
    places = [timer_key("k", "a"), timer_key("k", "b"), tell_key(told, 0)]
    bench.shard._refused.update(dict.fromkeys(places, "too large"))
    bench.now_ms += 10_000
    bench.fetch()
    result = bench.turn()
    assert result is not None
    assert sorted(map(str, result.refused)) == sorted(places)
    assert [incident.outcome for incident in result.incidents] == ["dead-lettered"] * 3
    bench.run()
    assert rung(bench) == [("c", 0)]
    assert bench.errors() == ["repertory.actors.context.OutputRefused"] * 3
    assert {record.header("source-topic") for record in bench.dead_letters} == {b"t.clock.commands"}
    assert len(bench.shard.timers) == 0
    bench.crash()
    bench.run()
    assert len(bench.dead_letters) == 3


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", [b"", b"a", b"1/0/1", b"1/0/1/", b"x/0/1/a", b"1/0/1/a\0b", b"1/0/1/" + b"x" * 256, b"\xff", b"-1/0/1/a"]
)
def test_an_invalid_header_is_a_dead_letter(header: bytes) -> None:
    """As any header that no shard writes."""
    bench = clock()
    bench.tell(Ring(), headers=((TIMER, header),))
    bench.run()
    assert bench.errors() == ["DecodeError"]


@pytest.mark.parametrize("header", [b"0/0/1700000010000/a", b"0/0/1/a", b"0/1/1700000010000/a", b"9/0/1700000010000/a"])
def test_nobody_else_can_fire_a_timer(header: bytes) -> None:
    """A command with the header of a timer that has not fired is dropped, and the timer stays."""
    bench = clock()
    bench.tell(Set(number=1))
    bench.tell(Ring(number=5), headers=((TIMER, header),))
    bench.run()
    assert rung(bench) == []
    after(bench, 20)
    assert rung(bench) == [("a", 1)]


def test_an_entity_that_stops_schedules_nothing() -> None:
    """A violation of the contract: its life goes on."""
    bench = clock()
    bench.tell(End(sets=True))
    bench.run()
    (stashed,) = bench.shard.stash.queue("k")
    assert "schedules a timer for an entity that stops" in stashed.record.reason


def test_timers_are_bounded() -> None:
    """Beyond the bound the command fails with a sentence, and replacing one needs no room."""
    bench = clock(limits=Limits(timers_per_key_max=2, timers_per_shard_max=3))
    for name in ("a", "b", "a", "b", "c"):
        bench.tell(Set(name=name))
    bench.tell(Set(name="a"), key="other")
    bench.tell(Set(name="b"), key="other")
    bench.run()
    reasons = [bench.shard.stash.queue(key)[0].record.reason for key in ("k", "other")]
    assert "key 'k' would have 3 timers; timers_per_key_max is 2" in reasons[0]
    assert "the shard has 3 timers and delayed messages; timers_per_shard_max is 3" in reasons[1]


def test_a_torn_timer_is_refused() -> None:
    """One that a command scheduled that the shard record does not know."""
    bench = clock()
    bench.tell(Set())
    bench.run()
    state = bench.topics[bench.codec.state]
    place = next(at for at, record in enumerate(state) if (record.key or b"").startswith(b"\0timer/"))
    found = decode_owed(timer_key("k", "a"), state[place].value or b"")
    torn = msgspec.msgpack.encode(msgspec.structs.replace(found, offset=77))
    state[place] = msgspec.structs.replace(state[place], value=torn)
    with pytest.raises(Inconsistent, match="which command 77 made"):
        bench.restored()


def test_a_record_of_another_kind_is_refused() -> None:
    """Its key says what it must be."""
    with pytest.raises(DecodeError, match="it is a TimerRecord, not a TellRecord"):
        decode_owed("\0tell/1/0", msgspec.msgpack.encode(TimerRecord(b"", 0, 0, 0)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "give after_s or at_ms, or every_s"),
        ({"after_s": 1, "at_ms": 1}, "give after_s or at_ms, or every_s"),
        ({"after_s": -1}, "after_s is a number of seconds from 0 on, not -1"),
        ({"after_s": float("nan")}, "after_s is a number of seconds from 0 on, not nan"),
        ({"after_s": True}, "after_s is a number of seconds from 0 on, not True"),
        ({"every_s": 0}, "every_s is a number of seconds from 0.001 on, not 0"),
        ({"every_s": 1e12}, "every_s is a number of seconds from 0.001 on"),
        ({"at_ms": 1.5}, "at_ms is a time since the epoch in ms, not 1.5"),
        ({"at_ms": 10**15}, "at_ms is a time since the epoch in ms"),
        ({"after_s": 1, "name": ""}, "the name of a timer has 0 bytes of UTF-8"),
        ({"after_s": 1, "name": "a\0b"}, "the name of a timer contains NUL"),
        ({"after_s": 1, "name": "\ud800"}, "the name of a timer is not encodable"),
        ({"after_s": 1, "name": 3}, "the name of a timer is of type int"),
        ({"after_s": 1, "message": Unset()}, "does not take Unset"),
    ],
)
def test_a_mistake_in_schedule_is_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    """It names what is wrong, and how it must be."""
    bench = clock()
    bench.tell(Set())
    envelope = bench.codec.decode(bench.topics[bench.codec.commands][0])
    handler = bench.behaviour.handlers[Set]
    context = Context(bench.behaviour, handler, envelope, bench.config.directory, "", 1, 1_000_000)  # type: ignore[arg-type]
    given_: dict[str, Any] = {"name": "a", "handler": Clock.ring, "message": Ring(), **arguments}
    with pytest.raises(ContractViolation, match=sentence):
        context.schedule(**given_)
    assert not context.later


# --- any schedule of commands and crashes ---------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from("ab"), st.integers(0, 30), st.sampled_from([None, 7.0])),
        st.tuples(st.just("unset"), st.sampled_from("ab")),
        st.just(("end",)),
        st.tuples(st.just("wait"), st.integers(1, 20)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
        st.just(("lose",)),
        st.just(("crash",)),
        st.just(("compact",)),
    ),
    max_size=40,
)


@given(STEPS)
def test_no_crash_changes_which_timers_fire(steps: list[tuple[Any, ...]]) -> None:
    """Read from the log alone: each command of a timer counts if, and only if, its timer was not taken back before."""
    bench = clock(limits=Limits(timers_per_turn_max=2, snapshot_window_records=3))
    for number, step in enumerate(steps):
        match step:
            case ("set", name, at, every_s):
                bench.tell(Set(name=name, at=at, every_s=every_s, number=100 + number))
            case ("unset", name):
                bench.tell(Unset(name=name))
            case ("end",):
                bench.tell(End())
            case ("wait", seconds):
                bench.now_ms += seconds * 1_000
            case ("turn", turns):
                bench.run(turns)
            case ("lose",):
                bench.fetch()
                bench.lose_turn()
            case ("crash",):
                bench.crash()
            case _:
                bench.compact(bench.codec.state)
    bench.run()
    bench.crash()
    check(bench)


def check(bench: Bench) -> None:
    """Compare the journal and the open timers of the one entity with what the commands in the log say."""
    expected: list[tuple[str, int]] = []
    timers: dict[str, tuple[int, int, Set]] = {}
    fired: set[tuple[str, int, int]] = set()
    for record in bench.topics[bench.codec.commands]:
        message = msgspec.msgpack.decode(record.value or b"", type=Set | Unset | Ring | End)
        match message:
            case Set():
                timers[message.name] = record.offset, TIMESTAMP_MS + message.at * 1_000, message
            case Unset():
                timers.pop(message.name, None)
            case End():
                timers.clear()
            case Ring():
                timer = FiredTimer.parse(record.header(TIMER) or b"")
                assert (timer.name, timer.offset, timer.due_ms) not in fired, "it fired twice"
                fired.add((timer.name, timer.offset, timer.due_ms))
                offset, due_ms, message = timers.get(timer.name, (-1, -1, Set()))
                if (offset, due_ms) != (timer.offset, timer.due_ms):
                    continue
                expected.append((message.name, message.number))
                if message.every_s is None:
                    del timers[timer.name]
                else:
                    timers[timer.name] = offset, record.timestamp_ms + round(message.every_s * 1_000), message
    assert rung(bench) == expected
    held: Timers = bench.shard.timers
    left = {name: (offset, due_ms) for name, (offset, due_ms, _) in timers.items()}
    assert {place.rsplit("\0", 1)[1]: (r.offset, r.due_ms) for place, r in held.records.items()} == left
    assert all(due_ms > bench.now_ms for _, due_ms, _ in timers.values()), "one that is due has not fired"
