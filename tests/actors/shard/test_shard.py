"""A shard's turns: failures leave no trace, stashed commands keep their order, and bounds stall without loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory import Backoff, Directive, Entity, Message, restart
from repertory.actors.control import DropParked, RetryEnded, RetryParked
from repertory.actors.message import Undecodable, wire_name
from repertory.actors.placement import partition_of
from repertory.actors.shard.config import Limits
from repertory.actors.shard.mailbox import Mailbox
from repertory.actors.shard.turn_result import Incident, Journaled
from repertory.actors.wire import encode
from tests.actors.domain import (
    Account,
    Bag,
    Close,
    Deposit,
    Escalating,
    GetBalance,
    Put,
    Router,
    Split,
    Spoil,
    Teller,
    Trip,
    Withdraw,
)
from tests.actors.shard.bench import BACKOFF_MS, REPLY_TO, Bench

POLICY = restart(
    max_restarts=2,
    backoff=Backoff(first_s=BACKOFF_MS / 1000, factor=1, jitter=0),
    on={KeyError: Directive.RESUME, ValueError: Directive.STOP, Escalating: Directive.ESCALATE},
)

#: (message or raw bytes, key, asked)
Told = tuple[Message | bytes, str, bool]

KEYS = st.sampled_from("abc")
GOOD: st.SearchStrategy[Message | bytes] = st.one_of(
    st.builds(Deposit, amount=st.integers(1, 9)),
    st.builds(Withdraw, amount=st.integers(1, 20)),
    st.builds(Split, amounts=st.lists(st.integers(1, 9), max_size=3).map(tuple)),
    st.just(Close()),
)
FAILING = st.builds(Trip, times=st.integers(0, 4), error=st.sampled_from(["restart", "resume", "stop"]))
ANY = st.one_of(GOOD, GOOD, FAILING, st.just(b"\xc1"))
TOLD = st.lists(st.tuples(ANY, KEYS, st.booleans()), max_size=25)


def send(bench: Bench, told: Sequence[Told]) -> None:
    for number, (message, key, asked) in enumerate(told):
        headers = (("reply-to", b"t.replies/0"), ("correlation-id", b"%d" % number)) if asked else ()
        bench.tell(message, key, headers)


def written(bench: Bench, *, without_books: bool = True) -> list[Any]:
    """Return all records that the shard wrote, by topic, as (key, value, headers)."""
    topics = ["t.account.events", "t.replies", "t.dead-letters"]
    if not without_books:
        topics += ["t.account.state"]
    return [[(r.key, r.value, r.headers) for r in bench.topics[topic]] for topic in topics]


def per_key(bench: Bench) -> dict[str, list[Any]]:
    """Return each key's events in order."""
    found: dict[str, list[Any]] = {}
    for record, value in zip(bench.topics["t.account.events"], bench.journal, strict=True):
        found.setdefault((record.key or b"").decode(), []).append(value)
    return found


def outcome(bench: Bench) -> Any:
    """Return the results that must not depend on batches, crashes and the interleaving of keys."""
    states = {key: (cell.state, cell.version) for key, cell in bench.shard.cells.items() if cell.version}
    waiting = {key: [w.envelope.offset for w in bench.shard.stash.queue(key)] for key in bench.shard.stash}
    replies = Counter((r.header("correlation-id"), r.value) for r in bench.topics["t.replies"])
    deliveries = Counter(
        (r.key, r.value, r.header("error-type"), r.header("source-offset")) for r in bench.dead_letters
    )
    told = Counter((r.key, r.value) for r in bench.topics["t.account.commands"] if r.header("cause"))
    return per_key(bench), states, waiting, replies, deliveries, told


# --- failures -------------------------------------------------------------------------------------------------


@given(TOLD, KEYS, st.integers(0, 24))
@settings(max_examples=150, deadline=None)
def test_a_failing_handler_leaves_no_trace_but_a_dead_letter(told: list[Told], key: str, at: int) -> None:
    """A command that raises and is skipped adds a dead letter; events, replies and states are those without it."""
    told = [(m, k, asked) for m, k, asked in told if not isinstance(m, Trip)]
    at = min(at, len(told))
    with_it, without_it = Bench(Account, policy=POLICY), Bench(Account, policy=POLICY)
    send(with_it, [*told[:at], (Trip(error="resume"), key, False), *told[at:]])
    send(without_it, told)
    with_it.settle()
    without_it.settle()
    assert per_key(with_it) == per_key(without_it)
    assert with_it.replies == without_it.replies
    states = [
        {key: (cell.state, cell.version) for key, cell in bench.shard.cells.items()} for bench in (with_it, without_it)
    ]
    assert states[0] == states[1]
    assert Counter(with_it.errors()) - Counter(without_it.errors()) == Counter({"KeyError": 1})
    assert not any(r.header("cause") for r in with_it.topics["t.account.commands"]), "the failed command sent a message"


def test_a_restarted_command_is_retried_after_its_backoff() -> None:
    """RESTART: attempt + 1 after the backoff, not before; other keys continue, the key's own commands are stashed."""
    bench = Bench(Account)
    bench.tell(Trip(times=2), "w")
    bench.tell(Deposit(amount=10), "w")
    bench.tell(Deposit(amount=20), "x")
    bench.tell(Split(amounts=(30, 40)), "w")
    bench.run()
    assert per_key(bench) == {"x": [{"type": "Deposited", "amount": 20}]}
    assert [w.record.attempt for w in bench.shard.stash.queue("w")] == [2, 1, 1]
    bench.now_ms += BACKOFF_MS - 1
    assert not bench.shard.ready(bench.now_ms)
    bench.now_ms += 1
    assert bench.shard.ready(bench.now_ms)
    bench.run()
    assert "w" not in per_key(bench)
    bench.now_ms += BACKOFF_MS
    bench.run()
    assert [event["amount"] for event in per_key(bench)["w"]] == [3, 10, 30, 40]
    assert bench.shard.stash.size == 0


def test_the_backoff_grows_with_the_attempt_and_survives_a_crash() -> None:
    """The backoff of each attempt is longer than the one before, and a new owner keeps the due time."""
    policy = restart(max_restarts=5, backoff=Backoff(first_s=1, factor=2, max_s=60, jitter=0, reset_after_s=100))
    bench = Bench(Account, policy=policy)
    bench.tell(Trip(times=4), "w")
    waits = []
    for _ in range(4):
        bench.run()
        bench.crash()
        due_ms = bench.shard.stash.next_due_ms()
        assert due_ms is not None
        waits.append(due_ms - bench.now_ms)
        bench.now_ms = due_ms
    bench.run()
    assert waits == [1_000, 2_000, 4_000, 8_000]
    assert per_key(bench)["w"] == [{"type": "Deposited", "amount": 5}]


def test_a_spent_budget_parks_the_key() -> None:
    """After max_restarts within the window the key is parked; older restarts do not count."""
    bench = Bench(Account, policy=POLICY)
    bench.tell(Trip(times=9), "w")
    bench.tell(Deposit(amount=1), "w")
    bench.settle()
    first = bench.shard.stash.queue("w")[0].record
    assert (first.parked, first.attempt, first.error) == (True, 3, "RuntimeError")
    assert bench.shard.stash.size == 2
    bench.crash()
    bench.settle()
    assert bench.shard.stash.size == 2
    slow = restart(max_restarts=1, within_s=10, backoff=Backoff(first_s=11, max_s=11, jitter=0))
    patient = Bench(Account, policy=slow)
    patient.tell(Trip(times=4), "w")
    patient.settle()
    assert per_key(patient)["w"] == [{"type": "Deposited", "amount": 5}]


def test_a_restart_budget_belongs_to_a_key() -> None:
    """The restarts of all commands of a key count together, and those of another key do not."""
    bench = Bench(Account, policy=POLICY)
    for key in ("w", "x"):
        bench.tell(Trip(times=1), key)
        bench.tell(Trip(times=1), key)
    bench.tell(Trip(times=1), "w")
    bench.settle()
    assert len(per_key(bench)["w"]) == len(per_key(bench)["x"]) == 2
    assert [(w.record.parked, w.record.attempt) for w in bench.shard.stash.queue("w")] == [(True, 1)]


def test_a_denied_restart_is_not_counted() -> None:
    """An asked command that fails on a spent budget is a dead letter, and does not extend the window."""
    policy = restart(max_restarts=1, within_s=10, backoff=Backoff(first_s=0, max_s=0), asked="answer")
    bench = Bench(Account, policy=policy)
    bench.tell(Trip(times=1), "w")
    bench.settle()
    for _ in range(3):
        bench.now_ms += 3_000
        bench.ask(Trip(times=1), "w")
        bench.settle()
    assert bench.errors() == ["RuntimeError"] * 3
    bench.now_ms += 3_000
    bench.ask(Trip(times=1), "w")
    bench.settle()
    assert len(per_key(bench)["w"]) == 2


@pytest.mark.parametrize("entity", [Account, Router])
def test_a_crash_does_not_reset_the_budget(entity: type[Entity]) -> None:
    """The next owner continues the count, also for an entity without state."""
    bench = Bench(entity, policy=POLICY, others=[Account])
    for _ in range(3):
        bench.crash()
        bench.tell(Trip(times=1), "w")
        bench.settle()
    bench.crash()
    assert [w.record.parked for w in bench.shard.stash.queue("w")] == [True]
    assert len(bench.states["w"].restarts_ms) == POLICY.max_restarts


def test_an_operator_resets_the_budget() -> None:
    """After an operator's retry a parked key has all its restarts again; after a drop the commands behind it have."""
    bench = Bench(Account, policy=POLICY)
    parked = bench.tell(Trip(times=3), "w")
    bench.tell(Trip(times=2), "w")
    bench.tell(Trip(times=2), "w")
    bench.settle()
    bench.tell(DropParked(offset=parked, reason="fixed"), "w")
    bench.settle()
    assert [w.record.parked for w in bench.shard.stash.queue("w")] == [True]
    bench.tell(RetryParked(offset=parked + 2), "w")
    bench.settle()
    assert len(per_key(bench)["w"]) == 2
    assert bench.errors() == ["Dropped"]


@pytest.mark.parametrize(("entity", "ends"), [(Account, False), (Account, True), (Router, False)])
def test_restarts_past_the_window_are_forgotten(entity: type[Entity], *, ends: bool) -> None:
    """Old restarts of a key use no memory, and no record in the log if the key has no other state."""
    bench = Bench(
        entity, policy=POLICY, limits=Limits(snapshot_window_bytes_max=1, snapshot_window_records=1), others=[Account]
    )
    bench.tell(Trip(times=1), "w")
    if ends:
        bench.tell(Close(), "w")
    bench.settle()
    assert bench.states["w"].restarts_ms
    bench.crash()
    bench.now_ms += 61_000
    for _ in range(3):  # An ended life is forgotten once its journal records are out of the window.
        bench.tell(Deposit(amount=1), "x")
        bench.run()
    assert "w" not in bench.shard._entities.budget
    bench.crash()
    assert ("w" in bench.states) == (entity is Account and not ends)


def test_a_clock_that_was_set_back_does_not_extend_the_window() -> None:
    """Restarts in the future count as restarts now, and expire one window later."""
    policy = restart(max_restarts=1, within_s=10, backoff=Backoff(first_s=0, max_s=0), asked="answer")
    bench = Bench(Account, policy=policy)
    bench.tell(Trip(times=1), "w")
    bench.settle()
    bench.now_ms -= 86_400_000
    bench.ask(Trip(times=1), "w")
    bench.settle()
    assert bench.errors() == ["RuntimeError"]
    bench.now_ms += 10_001
    bench.ask(Trip(times=1), "w")
    bench.settle()
    assert len(per_key(bench)["w"]) == 2


def test_stop_parks_at_once_and_resume_skips() -> None:
    """STOP parks the key at its first failure; RESUME dead-letters the command and continues."""
    bench = Bench(Account, policy=POLICY)
    bench.tell(Trip(error="stop"), "s")
    bench.tell(Deposit(amount=1), "s")
    bench.tell(Trip(error="resume"), "r")
    bench.tell(Deposit(amount=1), "r")
    bench.settle()
    assert per_key(bench) == {"r": [{"type": "Deposited", "amount": 1}]}
    assert [w.record.parked for w in bench.shard.stash.queue("s")] == [True, False]
    assert bench.errors() == ["KeyError"]


def test_escalate_commits_earlier_commands_and_takes_no_more() -> None:
    """ESCALATE: earlier commands are committed; the command itself and the ones behind it are not handled."""
    bench = Bench(Account, policy=POLICY)
    for amount in (1, 2):
        bench.tell(Deposit(amount=amount))
    bench.tell(Trip(error="escalate"))
    bench.tell(Deposit(amount=3))
    bench.run()
    assert [event["amount"] for event in bench.journal] == [1, 2]
    assert bench.record.next == 2
    assert bench.shard.failure is not None
    assert bench.shard.failure.error_type.endswith("Escalating")
    assert not bench.shard.ready(bench.now_ms)
    bench.crash()
    assert bench.shard.decide(bench.now_ms) is None
    bench.fetch()
    assert bench.shard.decide(bench.now_ms) is None, "the same command fails again, and no command is before it"


# --- every ask is answered ------------------------------------------------------------------------------------


ANSWER = msgspec.structs.replace(POLICY, asked="answer")


def test_asked_commands_are_parked_like_others() -> None:
    """The asker waits: a bug in a handler cancels no order, and its fix applies every command, in order."""
    bench = Bench(Account, policy=POLICY)
    first = bench.ask(Trip(error="stop"), "a", correlation_id="first")
    bench.ask(Deposit(amount=1), "a", correlation_id="behind")
    bench.ask(Trip(times=9), "w", correlation_id="spent")
    bench.settle()
    bench.ask(Deposit(amount=2), "a", correlation_id="later")
    bench.ask(Trip(times=1), "w", correlation_id="on a spent budget")
    bench.settle()
    assert bench.replies == []
    assert bench.errors() == []
    assert [w.record.parked for w in bench.shard.stash.queue("a")] == [True, False, False]
    assert [w.record.parked for w in bench.shard.stash.queue("w")] == [True, False]
    bench.restored()
    bench.tell(DropParked(offset=first, reason="fixed by hand"), "a")
    bench.settle()
    answered = [
        ((r.header("correlation-id") or b"").decode(), value["type"])
        for r, value in zip(bench.topics["t.replies"], bench.replies, strict=True)
    ]
    assert answered == [("first", "Undelivered"), ("behind", "Deposited"), ("later", "Deposited")]
    assert "fixed by hand" in str(bench.replies[0])


@pytest.mark.parametrize("error", ["resume", "undecodable"])
def test_every_dead_letter_answers_its_asker(error: str) -> None:
    """What will never be applied is answered, whatever the policy says about parking."""
    bench = Bench(Account, policy=POLICY)
    if error == "resume":
        bench.ask(Trip(error="resume"), "a")
    else:
        bench.tell(b"\xc1", "a", headers=REPLY_TO)
    bench.settle()
    assert [value["type"] for value in bench.replies] == ["Undelivered"]


def test_asked_commands_are_answered_instead_of_parked() -> None:
    """With ``asked="answer"`` it becomes a dead letter and Undelivered: as the first, behind it, or later."""
    bench = Bench(Account, policy=ANSWER)
    bench.ask(Trip(error="stop"), "a", correlation_id="first")
    bench.ask(Deposit(amount=1), "a", correlation_id="next")
    bench.tell(Trip(times=1), "w")
    bench.ask(Deposit(amount=1), "w", correlation_id="behind")
    bench.tell(Deposit(amount=2), "w")
    bench.ask(Deposit(amount=3), "w", correlation_id="behind too")
    bench.run()
    answered = {
        r.header("correlation-id"): msgspec.msgpack.decode(r.value or b"")["type"] for r in bench.topics["t.replies"]
    }
    assert answered == {b"first": "Undelivered", b"next": "Deposited"}

    bench = Bench(Account, policy=ANSWER)
    bench.tell(Trip(times=9), "w")
    bench.ask(Deposit(amount=1), "w", correlation_id="behind")
    bench.tell(Deposit(amount=2), "w")
    bench.settle()
    bench.ask(Deposit(amount=3), "w", correlation_id="later")
    bench.settle()
    replies = [
        (r.header("correlation-id"), value["type"])
        for r, value in zip(bench.topics["t.replies"], bench.replies, strict=True)
    ]
    assert replies == [(b"behind", "Undelivered"), (b"later", "Undelivered")]
    assert bench.errors() == ["Parked", "Parked"]
    assert [w.envelope.sender for w in bench.shard.stash.queue("w")] == [None, None]
    bench.restored()


@given(TOLD)
@settings(max_examples=150, deadline=None)
def test_every_ask_has_exactly_one_answer(told: list[Told]) -> None:
    """At the end each asked command has exactly one answer, and there are no other answers."""
    bench = Bench(Account, policy=ANSWER)
    send(bench, told)
    bench.settle()
    asked = [b"%d" % number for number, (_, _, asked) in enumerate(told) if asked]
    assert sorted(asked) == sorted(r.header("correlation-id") or b"" for r in bench.topics["t.replies"])


@given(TOLD)
@settings(max_examples=150, deadline=None)
def test_every_command_has_one_outcome(told: list[Told]) -> None:
    """Each command below the committed offset is exactly one of applied, rejected, dead-lettered, stashed."""
    bench = Bench(Account, policy=POLICY)
    send(bench, told)
    applied = rejected = 0
    while True:
        bench.fetch()
        result = bench.turn()
        if result is None:
            due_ms = bench.shard.stash.next_due_ms()
            if due_ms is None:
                break
            bench.now_ms = due_ms
            continue
        applied += result.counts.applied
        rejected += result.counts.rejected
    handled = applied + rejected + len(bench.dead_letters) + bench.shard.stash.size
    assert handled == len(bench.topics["t.account.commands"])


# --- undecodable records --------------------------------------------------------------------------------------


def test_records_that_cannot_be_handled_are_dead_lettered_in_order() -> None:
    """Undecodable records and keys of other partitions are dead-lettered in order, and askers are answered."""
    bench = Bench(Account, partitions=4, partition=partition_of(b"k", 4))
    bench.tell(Deposit(amount=1))
    bench.tell(b"garbage", headers=REPLY_TO)
    foreign = next(key for key in "abcdefgh" if partition_of(key.encode(), 4) != bench.config.id.partition)
    bench.ask(Deposit(amount=1), foreign)
    bench.tell(None)
    bench.tell(Deposit(amount=1), None)
    bench.tell(Deposit(amount=2))
    bench.run()
    assert [event["amount"] for event in bench.journal] == [1, 2]
    assert bench.errors() == ["DecodeError", "WrongPartition", "DecodeError", "DecodeError"]
    assert b"partitioner=murmur2_random" in (bench.dead_letters[1].header("error-message") or b"")
    assert [answer["type"] for answer in bench.replies] == ["Undelivered", "Undelivered"]
    assert foreign not in bench.shard.cells


def test_refused_keys_take_no_memory() -> None:
    """Keys with only rejections, failures or a wrong partition are not kept in memory."""
    bench = Bench(Account, policy=POLICY)
    for number in range(50):
        bench.tell(Withdraw(amount=1), f"rejected-{number}")
        bench.tell(Trip(error="resume"), f"failed-{number}")
    bench.run()
    assert list(bench.shard.cells) == []
    assert bench.states == {}
    router = Bench(Router, others=[Account])
    router.tell(Deposit(amount=1))
    router.run()
    assert list(router.shard.cells) == []


# --- bounds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Limits(stash_per_key_max=3), Limits(stash_per_shard_max=3)])
def test_a_bound_stalls_the_shard_and_loses_nothing(limits: Limits) -> None:
    """At a bound no command is taken and retries continue; once there is room, the shard continues in order."""
    bench = Bench(Account, limits=limits)
    bench.tell(Trip(times=1), "w")
    for amount in range(10, 20):
        bench.tell(Deposit(amount=amount), "w")
    bench.tell(Deposit(amount=1), "x")
    bench.run()
    assert bench.shard.stash.size == 3
    assert bench.shard.stalled is not None
    assert "stashed" in bench.shard.stalled
    assert not bench.shard.ready(bench.now_ms)
    assert bench.record.next == 3
    bench.crash()
    bench.run()
    assert bench.shard.stalled is not None
    bench.settle()
    assert bench.shard.stalled is None
    assert [event["amount"] for event in per_key(bench)["w"]] == [2, *range(10, 20)]
    assert per_key(bench)["x"] == [{"type": "Deposited", "amount": 1}]


@given(
    sizes=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), max_size=20),
    records_max=st.integers(1, 6),
    bytes_max=st.integers(1, 30),
    takes=st.lists(st.integers(0, 4), max_size=40),
)
def test_the_mailbox_is_a_queue_that_never_drops(
    sizes: list[list[int]], records_max: int, bytes_max: int, takes: list[int]
) -> None:
    """Deliveries are taken in the order in which they are offered, also beyond the bounds, when the mailbox is full."""
    limits = Limits(mailbox_records_max=records_max, mailbox_bytes_max=bytes_max)
    mailbox, naive, offset = Mailbox(limits, 0), [], 0
    for values, take in zip(sizes, takes + [0] * len(sizes), strict=False):
        deliveries = [Undecodable(offset + 2 * i, None, bytes(n) or None, (), 0, "", "") for i, n in enumerate(values)]
        offset += 2 * len(values)
        mailbox.offer(deliveries)
        naive += deliveries
        for _ in range(min(take, len(naive))):
            assert mailbox.deliveries[0] is naive[0]
            taken = mailbox.deliveries.popleft()
            mailbox.bytes -= len(taken.value or b"")
            assert taken is naive.pop(0)
        size = sum(len(delivery.value or b"") for delivery in naive)
        assert len(mailbox) == len(naive)
        assert mailbox.is_full() == (len(naive) >= records_max or size >= bytes_max)
        assert mailbox.is_drained() == (len(naive) <= records_max // 2 and size <= bytes_max // 2)
    if naive:
        with pytest.raises(AssertionError):
            mailbox.offer([naive[0]])


@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=30), bytes_max=st.integers(1, 2_000))
def test_a_turn_ends_at_its_bound_of_bytes(sizes: list[int], bytes_max: int) -> None:
    """Only the last command of a transaction can exceed the bound, and all commands are handled."""
    bench = Bench(Account, limits=Limits(turn_bytes_max=bytes_max))
    for number, size in enumerate(sizes):
        bench.tell(Split(amounts=tuple(range(size))), f"k{number % 3}")
    bench.fetch()
    while (result := bench.turn()) is not None:
        events = [output for output in result.outputs if isinstance(output, Journaled)]
        last = result.record.next - 1
        assert sum(len(event.data) for event in events if event.offset != last) < bytes_max
    assert bench.record.next == len(sizes)
    assert bench.shard.mailbox.bytes == 0


@pytest.mark.parametrize("error", ["resume", "stop", "restart"])
def test_failed_commands_count_towards_the_bound_of_bytes(error: str) -> None:
    """Dead letters and stashed commands contain the bytes and the traceback of their commands, which count too."""
    policy = restart(on={KeyError: Directive.RESUME, ValueError: Directive.STOP})
    command = Trip(times=1_000, error=error)
    first = Bench(Account, policy=policy)
    first.tell(command, "k0")
    first.fetch()
    failed = first.turn()
    assert failed is not None
    each = len(encode(command)) + len(failed.incidents[0].traceback)
    bench = Bench(Account, limits=Limits(turn_bytes_max=2 * each + 1), policy=policy)
    for number in range(9):
        bench.tell(command, f"k{number}")
    bench.fetch()
    turns = [bench.turn() for _ in range(3)]
    assert [result and result.record.next for result in turns] == [3, 6, 9]


# --- determinism ----------------------------------------------------------------------------------------------


@given(TOLD, st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_the_same_input_gives_the_same_bytes(told: list[Told], batch: int) -> None:
    """Two shards with the same records at the same times write byte-identical transactions."""
    benches = [Bench(Account, policy=POLICY, limits=Limits(batch_records_max=batch)) for _ in range(2)]
    for bench in benches:
        send(bench, told)
        bench.settle()
    assert benches[0].transactions == benches[1].transactions


@given(TOLD, st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_the_batch_size_changes_no_result(told: list[Told], batch: int) -> None:
    """With one command per transaction or all in one, events per key, states, replies and dead letters are the same."""
    one = Bench(
        Account,
        policy=POLICY,
        limits=Limits(batch_records_max=batch, snapshot_window_bytes_max=1, snapshot_window_records=3),
    )
    all_ = Bench(Account, policy=POLICY)
    for bench in (one, all_):
        send(bench, told)
        bench.settle()
    assert outcome(one) == outcome(all_)
    one.crash()
    assert outcome(one) == outcome(all_)


@given(TOLD, st.integers(1, 4), st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_crashes_change_no_result_and_no_cause_appears_twice(
    told: list[Told], batch: int, losses: list[int], window: int
) -> None:
    """With turns lost at random, a reader sees the same results as without, and each cause is unique."""
    calm = Bench(Account, policy=POLICY)
    send(calm, told)
    calm.settle()
    limits = Limits(batch_records_max=batch, snapshot_window_bytes_max=1, snapshot_window_records=window)
    bench = Bench(Account, policy=POLICY, limits=limits)
    send(bench, told)
    for loss in losses:
        bench.fetch()
        match loss:
            case 0:
                bench.lose_turn()
            case 1:
                bench.crash()
            case 2:
                bench.compact(bench.codec.state)
            case _:
                bench.now_ms += BACKOFF_MS // 2
        bench.turn()
    bench.settle()
    assert outcome(bench) == outcome(calm)
    causes = [cause for transaction in bench.transactions for r in transaction.records
              for name, cause in r.headers if name == "cause"]  # fmt: skip
    assert len(causes) == len(set(causes))
    assert bench.restored().record == bench.shard.record


@given(st.lists(st.tuples(st.sampled_from([Trip(), Close(), Trip(times=0)]), KEYS), max_size=12), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_stateful_entity_writes_its_state_once_a_turn(told: list[tuple[Message, str]], batch: int) -> None:
    """An entity that changes several times within a turn gets one state record."""
    bench = Bench(Teller, others=[Account], limits=Limits(batch_records_max=batch))
    for message, key in told:
        bench.tell(message, key)
    bench.settle()
    for transaction in bench.transactions:
        keys = [r.key for r in transaction.records if r.topic == "t.teller.state"]
        assert len(keys) == len(set(keys))


def test_an_incident_names_the_place_the_error_and_the_next_step() -> None:
    """Each failure is one incident for the operator's log."""
    bench = Bench(Account, policy=POLICY)
    bench.tell(Trip(error="stop"), "w")
    bench.fetch()
    result = bench.turn()
    assert result is not None
    (incident,) = result.incidents
    assert isinstance(incident, Incident)
    assert (incident.where, incident.error, incident.next) == ("account/0@0 key 'w'", "ValueError", "its key is parked")
    assert "attempt 1 of w" in incident.reason
    assert "Traceback" in incident.traceback


def test_each_command_is_counted_once_by_outcome() -> None:
    """Each command is counted once, by its outcome, in the turn that committed it."""
    bench = Bench(Account, policy=POLICY)
    for message in (Deposit(amount=1), Split(amounts=(1, 2)), Withdraw(amount=99), Trip(error="resume"),
                    Trip(times=1), Deposit(amount=1)):  # fmt: skip
        bench.tell(message)
    bench.tell(Trip(error="stop"), "w")
    bench.ask(GetBalance(), "w")
    bench.fetch()
    result = bench.turn()
    assert result is not None
    assert msgspec.structs.asdict(result.counts) == {
        "applied": 2, "rejected": 1, "dead_lettered": 1, "restarted": 1, "parked": 1, "journaled": 3, "repeated": 0,
        "answered": 1, "stale": 0, "fired": 0,
    }  # fmt: skip


# --- operators ------------------------------------------------------------------------------------------------


def test_dropping_a_parked_command_makes_room_at_once() -> None:
    """A shard whose stash is full continues as soon as a parked command is dropped, before the request is reached."""
    bench = Bench(Account, policy=POLICY, limits=Limits(stash_per_shard_max=1))
    parked = bench.tell(Trip(error="stop"), "w")
    bench.tell(Deposit(amount=1), "x")
    bench.run()
    assert bench.shard.stalled is not None
    bench.tell(DropParked(offset=parked, reason="gone"), "w")
    bench.fetch()
    while bench.shard.ready(bench.now_ms):
        bench.turn()
    assert per_key(bench) == {"x": [{"type": "Deposited", "amount": 1}]}
    assert bench.errors() == ["Dropped"]
    assert bench.shard.stash.size == 0


def test_an_operators_retry_runs_once_even_if_it_fails_again() -> None:
    """An operator's retry behind commands without room that fails again is not repeated for ever."""
    bench = Bench(Account, policy=POLICY, limits=Limits(stash_per_shard_max=1))
    parked = bench.tell(Trip(times=99, error="stop"), "w")
    bench.tell(Deposit(amount=1), "x")
    bench.run()
    bench.tell(RetryParked(offset=parked), "w", REPLY_TO)
    bench.fetch()
    turns = 0
    while bench.shard.ready(bench.now_ms):
        result = bench.turn()
        turns += 1
        assert turns < 10, "the retry is repeated for ever"
        assert result is not None
    assert bench.shard.stash.queue("w")[0].record.parked
    assert bench.shard.stalled is not None


@pytest.mark.parametrize("limits", [Limits(), Limits(stash_per_key_max=1), Limits(stash_per_shard_max=1)])
def test_an_operator_is_always_answered(limits: Limits) -> None:
    """A control command needs no room, is answered, and has no effect if its command is no longer parked."""
    bench = Bench(Account, policy=POLICY, limits=limits)
    parked = bench.tell(Trip(times=99, error="stop"), "w")
    bench.tell(RetryParked(offset=parked), "w", REPLY_TO)
    bench.tell(RetryParked(offset=parked + 7), "w", REPLY_TO)
    bench.tell(DropParked(offset=parked, reason="enough"), "w", REPLY_TO)
    bench.tell(DropParked(offset=parked, reason="enough"), "w", REPLY_TO)
    bench.settle()
    ended = [answer for answer in bench.replies if answer["type"] == wire_name(RetryEnded)]
    assert [answer["type"] for answer in bench.replies if answer not in ended] == ["Done"] * 4
    assert [answer["outcome"] for answer in ended] == ["parked"]
    assert bench.errors() == ["Dropped"]
    assert bench.shard.stash.size == 0
    bench.restored()


def test_changes_in_place_of_a_failed_handler_are_undone() -> None:
    """After a failed command, the next one sees the committed state of an entity with mutable fields."""
    bench = Bench(Bag, policy=restart(default=Directive.RESUME))
    bench.tell(Put(item="a"))
    for how in ("list", "dict", "set", "raise"):
        bench.tell(Spoil(how=how))
    bench.tell(Put(item="b"))
    bench.run()
    assert bench.shard.cells.get("k").state == Bag(items=["a", "b"])
    assert bench.errors() == ["repertory.actors.context.ContractViolation"] * 3 + ["RuntimeError"]


# --- a wall clock that is set back ----------------------------------------------------------------------------

STEADY = restart(max_restarts=3, within_s=60, backoff=Backoff(first_s=2, max_s=2, jitter=0))


@pytest.mark.parametrize("recovers", [False, True], ids=["same owner", "next owner"])
def test_a_clock_that_is_set_back_makes_no_command_wait_longer(*, recovers: bool) -> None:
    """A stashed command waits as long as its backoff, whatever the clock does, and so does the next owner's."""
    bench = Bench(Account, policy=STEADY)
    for key in ("a", "b"):
        bench.tell(Trip(times=1), key)
        bench.run()
    bench.now_ms -= 3_600_000
    if recovers:
        bench.crash()
    assert not bench.shard.ready(bench.now_ms)
    assert bench.shard.stash.next_due_ms() == bench.now_ms + 2_000
    bench.now_ms += 2_000
    assert bench.shard.ready(bench.now_ms)
    bench.run()
    assert len(bench.shard.stash.queue("a")) == len(bench.shard.stash.queue("b")) == 0


@pytest.mark.parametrize("recovers", [False, True], ids=["same owner", "next owner"])
def test_restarts_in_the_future_expire_after_one_window(*, recovers: bool) -> None:
    """A budget that was used while the clock was ahead is not used up until that time comes."""
    bench = Bench(Account, policy=STEADY)
    for key in ("a", "b"):
        bench.tell(Trip(times=2), key)
        bench.settle()
    bench.now_ms -= 3_600_000
    if recovers:
        bench.crash()
    assert not bench.shard.ready(bench.now_ms)
    bench.now_ms += 60_001
    bench.tell(Deposit(amount=1), "c")
    bench.run()
    for key in ("a", "b"):
        bench.tell(Trip(times=3), key)
    bench.settle()
    assert bench.errors() == []
    assert not bench.shard.stash.size
