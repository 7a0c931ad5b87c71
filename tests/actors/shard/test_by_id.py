"""What is done about an ask by its id: its answer is fetched, and it is revoked, in whatever state it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory import Backoff, restart
from repertory.actors.control import FetchAnswer, NotAsked, RetryEnded, RetryParked, Revoke, Revoked, StillOpen
from repertory.actors.message import Message, Undelivered, wire_name
from repertory.actors.shard.config import AT_LEAST_ONCE, Limits
from repertory.actors.wire import encode
from tests.actors.shard.bench import POLICY, REPLY_TO, Bench
from tests.actors.shard.test_answers import MENDED, NOW_MS, Hold, Paid, Pay, Release, Released, Teller, Till, own

REVOKED = encode(Undelivered(reason="Revoked: by request, before it was applied"))


class Asker(Teller):
    """Asks, fetches and revokes."""

    def fetch(self, name: str, key: str = "k", made_ms: int = NOW_MS) -> str:
        """Fetch an answer, and return the correlation id."""
        return self._request(FetchAnswer(id=name, made_at_ms=made_ms), key)

    def revoke(self, name: str, key: str = "k", made_ms: int = NOW_MS) -> str:
        """Revoke an ask, and return the correlation id."""
        return self._request(Revoke(id=name, made_at_ms=made_ms), key)

    def _request(self, message: Message, key: str) -> str:
        self.calls += 1
        correlation_id = f"c{self.calls}"
        self.bench.tell(message, key, (("reply-to", b"t.replies/0"), ("correlation-id", correlation_id.encode())))
        return correlation_id


def waiting(**limits: Any) -> Asker:
    """Return a till where a failed command waits for its retry."""
    asker = Asker()
    asker.bench = Bench(Till, policy=POLICY, limits=Limits(**limits))
    return asker


def told(answer: Message) -> tuple[bytes, bool]:
    return encode(answer), False


def test_what_is_known_of_an_id() -> None:
    """Its answer as it was given, that it is open and why, or that nothing was applied under it."""
    asker = Asker()
    first = asker.ask(Pay(amount=5), own("answered"))
    asker.ask(Hold(), own("kept"))
    asker.ask(Pay(amount=13), own("parked"))
    asker.ask(Pay(amount=1), own("behind"))
    calls = [asker.fetch(name) for name in ("answered", "kept", "parked", "behind", "unknown")]
    elsewhere, later = asker.fetch("answered", key="l"), asker.fetch("unknown", made_ms=NOW_MS + 10**9)
    asker.bench.run()
    asker.bench.crash()
    calls += [asker.fetch(name) for name in ("answered", "kept", "parked", "behind", "unknown")]
    asker.bench.run()
    expected = [
        (encode(Paid(amount=5, total=5)), True), told(StillOpen(state="kept")), told(StillOpen(state="parked")),
        told(StillOpen(state="parked")), told(NotAsked()),
    ]  # fmt: skip
    assert [asker.answer(call) for call in calls] == expected * 2
    assert asker.answer(elsewhere) == asker.answer(later) == told(NotAsked())
    positions = {record.header("position") for call in (first, calls[0]) for record in asker.answers(call)}
    assert positions == {b"till/0/1"}


def test_what_waits_for_its_retry_is_open() -> None:
    """Nobody has to act on it."""
    asker = waiting()
    asker.ask(Pay(amount=13), own("x"))
    asker.ask(Pay(amount=1), own("y"))
    calls = [asker.fetch("x"), asker.fetch("y")]
    asker.bench.run()
    assert [asker.answer(call) for call in calls] == [told(StillOpen(state="waiting"))] * 2


def test_a_fetch_stands_in_log_order_and_changes_nothing() -> None:
    """It sees the commands before it, none behind it, and leaves no record but its answer."""
    asker = Asker()
    before, _, after = asker.fetch("x"), asker.ask(Pay(amount=5), own("x")), asker.fetch("x")
    asker.bench.run()
    assert asker.answer(before) == told(NotAsked())
    assert asker.answer(after) == (encode(Paid(amount=5, total=5)), True)
    asker.fetch("x")
    asker.fetch("y")
    asker.bench.fetch()
    result = asker.bench.turn()
    assert result is not None
    assert result.changelog == []


@pytest.mark.parametrize("request_of", [Asker.fetch, Asker.revoke])
def test_an_id_from_before_the_horizon_is_too_old(request_of: Any) -> None:
    """What may be forgotten may have been applied."""
    asker = Asker(answers_per_shard_max=1)
    for number in range(3):
        asker.ask(Pay(amount=1), own(f"x{number}", NOW_MS + number))
    asker.bench.run()
    call = request_of(asker, "x0")
    asker.bench.run()
    assert b"TooOld" in (asker.answer(call)[0] or b"")


@pytest.mark.parametrize("lost", [False, True])
def test_a_parked_ask_is_revoked(*, lost: bool) -> None:
    """It is a dead letter, all who wait are answered, its key goes on, and a turn that is lost is decided again."""
    asker = Asker()
    first = asker.ask(Pay(amount=13), own("x"))
    behind = asker.ask(Pay(amount=1), own("y"))
    joined = asker.ask(Pay(amount=13), own("x"))
    asker.bench.run()
    revoked, fetched = asker.revoke("x"), asker.fetch("x")
    asker.bench.fetch()
    if lost:
        asker.bench.lose_turn()
    asker.bench.run()
    again, late = asker.revoke("x"), asker.ask(Pay(amount=13), own("x"))
    asker.bench.run()
    assert asker.answer(first) == (REVOKED, False)
    assert asker.answer(joined) == asker.answer(fetched) == asker.answer(late) == (REVOKED, True)
    assert asker.answer(revoked) == asker.answer(again) == told(Revoked())
    assert asker.answer(behind) == (encode(Paid(amount=1, total=1)), False)
    assert asker.bench.errors() == ["Revoked"]
    assert asker.bench.dead_letters[0].header("attempts") == b"1"
    assert asker.bench.shard.stash.size == 0
    asker.bench.crash()
    assert asker.bench.shard.stash.size == 0


def test_an_ask_behind_others_is_revoked() -> None:
    """Those before and behind it are where they were."""
    asker = Asker()
    calls = [asker.ask(Pay(amount=amount), own(f"x{amount}")) for amount in (13, 1, 2)]
    asker.bench.run()
    revoked = asker.revoke("x1")
    asker.bench.run()
    assert asker.answer(revoked) == told(Revoked())
    assert [len(asker.answers(call)) for call in calls] == [0, 1, 0]
    asker.bench.crash()
    MENDED["is"] = True
    asker.retry("k")
    asker.bench.run()
    assert asker.answer(calls[0]) == (encode(Paid(amount=13, total=13)), False)
    assert asker.answer(calls[1]) == (REVOKED, False)
    assert asker.answer(calls[2]) == (encode(Paid(amount=2, total=15)), False)


def test_an_ask_that_waits_for_its_retry_is_revoked() -> None:
    """The next command of its key runs at once, on the restart budget that there is."""
    asker = waiting()
    call, behind = asker.ask(Pay(amount=13), own("x")), asker.ask(Pay(amount=1), own("y"))
    asker.bench.run()
    revoked = asker.revoke("x")
    asker.bench.run()
    assert (asker.answer(call), asker.answer(revoked)) == ((REVOKED, False), told(Revoked()))
    assert asker.answer(behind) == (encode(Paid(amount=1, total=1)), False)
    assert asker.bench.dead_letters[0].header("attempts") == b"2"
    assert len(asker.bench.states["k"].restarts_ms) == 1


def test_a_parked_key_goes_on_with_a_new_budget() -> None:
    """As after an operator's drop: the command behind it may fail as often as any."""
    asker = Asker()
    asker.bench = Bench(Till, policy=restart(max_restarts=1, within_s=3_600, backoff=Backoff(first_s=0.1, jitter=0)))
    asker.ask(Pay(amount=13), own("x"))
    asker.ask(Pay(amount=13), own("y"))
    asker.bench.settle()
    assert asker.bench.shard.stash.queue("k")[0].record.parked
    asker.revoke("x")
    asker.bench.run()
    (left,) = asker.bench.shard.stash.queue("k")
    assert (left.record.parked, left.record.attempt) == (False, 2)


def test_what_cannot_be_revoked() -> None:
    """An answer is told, a kept sender is still owed its own, and of an unknown id nothing remains: it can be asked."""
    asker = Asker()
    asker.ask(Pay(amount=5), own("answered"))
    held = asker.ask(Hold(), own("kept"))
    calls = [asker.revoke(name) for name in ("answered", "kept", "unknown")]
    asker.bench.run()
    asker.bench.tell(Release())
    late = asker.ask(Pay(amount=1), own("unknown"))
    asker.bench.run()
    assert [asker.answer(call) for call in calls] == [
        (encode(Paid(amount=5, total=5)), True), told(StillOpen(state="kept")), told(NotAsked())
    ]  # fmt: skip
    assert asker.answer(held) == (encode(Released()), False)
    assert asker.answer(late) == (encode(Paid(amount=1, total=6)), False)
    assert not asker.bench.dead_letters


def test_without_an_address_a_request_is_carried_out_and_nobody_is_answered() -> None:
    """A revoke by hand; and garbage that anybody may write harms nothing."""
    asker = Asker()
    call = asker.ask(Pay(amount=13), own("x"))
    asker.bench.tell(FetchAnswer(id="x", made_at_ms=NOW_MS))
    asker.bench.tell(Revoke(id="", made_at_ms=0))
    asker.bench.tell(Revoke(id="k\0x\0", made_at_ms=1 << 62))
    asker.bench.tell(Revoke(id="x", made_at_ms=NOW_MS))
    asker.bench.tell(b"\x83\xa4type\xb0repertory.revoke\xa2id\xa1x\xaamade_at_ms\xff")
    asker.bench.run()
    assert asker.answer(call) == (REVOKED, False)
    assert len(asker.bench.replies) == 1
    assert asker.bench.errors() == ["Revoked", "DecodeError"]


def test_an_operator_who_waits_for_a_revoked_command_is_told() -> None:
    """The retry of a command that is revoked before it ends ended as a dead letter."""
    asker = waiting()
    asker.bench.config = msgspec.structs.replace(asker.bench.config, policy=restart(max_restarts=1, within_s=3_600))
    asker.bench.crash()
    asker.ask(Pay(amount=13), own("x"))
    asker.bench.settle()
    asker.bench.tell(RetryParked(offset=0), "k", REPLY_TO)
    asker.bench.run()
    assert not asker.bench.shard.stash.queue("k")[0].record.parked
    asker.revoke("x")
    asker.bench.run()
    ended = [each for each in asker.bench.replies if each["type"] == wire_name(RetryEnded)]
    assert [(each["outcome"], each["error"]) for each in ended] == [("dead-lettered", "Revoked")]


# --- a full stash ---------------------------------------------------------------------------------------------


def test_a_revoke_makes_room() -> None:
    """A shard whose stash is full goes on as soon as an ask is revoked; the request is answered where it stands."""
    asker = Asker(stash_per_shard_max=1)
    call = asker.ask(Pay(amount=13), own("x"), key="w")
    other = asker.ask(Pay(amount=1), own("y"))
    asker.bench.run()
    assert asker.bench.shard.stalled is not None
    fetched, revoked = asker.fetch("x", key="w"), asker.revoke("x", key="w")
    asker.bench.run()
    assert asker.answer(call) == (REVOKED, False)
    assert asker.answer(other) == (encode(Paid(amount=1, total=1)), False)
    assert asker.answer(fetched) == (REVOKED, True)
    assert asker.answer(revoked) == told(Revoked())


def test_a_revoke_behind_its_ask_and_behind_a_command_without_room() -> None:
    """It is looked at ahead of its turn, when the ask is not there yet, and carried out at its turn all the same."""
    asker = Asker(stash_per_shard_max=2)
    asker.ask(Pay(amount=13), own("first"), key="w")
    asker.ask(Pay(amount=1), own("second"), key="w")
    blocked = asker.ask(Pay(amount=13), own("third"), key="v")
    revoked = asker.revoke("third", key="v")
    asker.bench.run()
    assert asker.bench.shard.stalled is not None
    assert not asker.answers(revoked)
    room = asker.revoke("second", key="w")
    asker.bench.run()
    assert asker.answer(blocked) == (REVOKED, False)
    assert asker.answer(revoked) == asker.answer(room) == told(Revoked())
    assert asker.bench.errors() == ["Revoked", "Revoked"]


# --- other paths ----------------------------------------------------------------------------------------------


def test_at_least_once_both_need_a_transaction() -> None:
    """What a client is told about an ask is told once: decided again, it might be something else."""
    asker = waiting(delivery=AT_LEAST_ONCE)
    first = asker.bench.shard.takeover_result([])
    assert first is not None
    asker.bench.commit(first)
    for act in (asker.fetch, asker.revoke):
        act("x")
        asker.bench.fetch()
        result = asker.bench.turn()
        assert result is not None
        assert not result.nontransactional


def test_a_suspect_that_is_revoked_is_forgotten() -> None:
    """It kills no process any more: the next death is counted from the first."""
    asker = waiting(deaths_max=2)
    asker.bench.take_over("n1")
    call = asker.ask(Pay(amount=13), own("x"))
    asker.bench.run()
    asker.bench.take_over("n1", [(0, 7)])
    assert (asker.bench.record.suspect, asker.bench.record.deaths) == (0, 1)
    revoked = asker.revoke("x")
    asker.bench.run()
    assert (asker.bench.record.suspect, asker.bench.record.deaths) == (-1, 0)
    assert (asker.answer(call), asker.answer(revoked)) == ((REVOKED, False), told(Revoked()))
    asker.bench.settle()
    assert asker.bench.errors() == ["Revoked"]


def test_after_an_unclean_takeover_requests_are_handled_alone_like_commands() -> None:
    """What the last owner had stashed is announced, or revoked, and the shard is no longer careful in the end."""
    asker = waiting()
    asker.bench.take_over("n1")
    call = asker.ask(Pay(amount=13), own("x"))
    asker.bench.run()
    revoked, fetched = asker.revoke("x"), asker.fetch("x")
    asker.bench.take_over("n2")
    asker.bench.settle()
    assert asker.answer(call) == (REVOKED, False)
    assert (asker.answer(revoked), asker.answer(fetched)) == (told(Revoked()), (REVOKED, True))
    asker.bench.tell(Hold())
    asker.bench.settle()
    assert (asker.bench.record.guarded, asker.bench.record.guarded_below) == (-1, 0)


def test_a_turn_of_large_answers_ends() -> None:
    """What is fetched counts among the bytes of its turn."""
    asker = Asker(turn_bytes_max=100)
    asker.ask(Pay(amount=5), own("x"))
    asker.bench.run()
    calls = [asker.fetch("x") for _ in range(20)]
    asker.bench.fetch()
    turns = 0
    while asker.bench.turn() is not None:
        turns += 1
    assert turns > 1
    assert {asker.answer(call) for call in calls} == {(encode(Paid(amount=5, total=5)), True)}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 3), st.sampled_from([1, 13, 13, -1, 0])),
        st.tuples(st.sampled_from(["revoke", "revoke", "fetch"]), st.integers(0, 3)),
        st.tuples(st.just("run"), st.integers(1, 4)),
        st.sampled_from([("crash",), ("lose",), ("compact",), ("retry",), ("wait",)]),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(STEPS, st.integers(1, 5), st.integers(1, 4), st.sampled_from(["exactly-once", "at-least-once"]))
def test_an_ask_that_is_revoked_has_no_effect(
    steps: list[tuple[Any, ...]], batch: int, room: int, delivery: Any
) -> None:
    """Whatever comes when: each id is applied or revoked, never both, and everybody is told the same."""
    asker = waiting(batch_records_max=batch, stash_per_shard_max=room, delivery=delivery)
    MENDED["is"] = False
    asker.bench.take_over("n1")
    asked: dict[int, int] = {}
    calls: dict[int, list[str]] = {number: [] for number in range(4)}
    requests: list[str] = []
    for step in steps:
        match step:
            case ("ask", number, amount):
                calls[number].append(asker.ask(Pay(amount=asked.setdefault(number, amount)), own(f"x{number}"), "k"))
            case ("revoke" | "fetch" as kind, number):
                call = asker.revoke(f"x{number}") if kind == "revoke" else asker.fetch(f"x{number}")
                requests.append(call)
                calls[number].append(call)
            case ("run", turns):
                asker.bench.run(turns=turns)
            case ("crash",):
                asker.bench.take_over("n1")
            case ("lose",):
                asker.bench.fetch()
                asker.bench.lose_turn()
                asker.bench.take_over("n1")
            case ("compact",):
                asker.bench.compact(asker.bench.codec.state)
            case ("retry",) if "k" in asker.bench.shard.stash:
                MENDED["is"] = True
                asker.retry("k")
                asker.bench.run()
                MENDED["is"] = False
            case ("wait",):
                asker.bench.settle()
    asker.bench.run()
    open_still = {encode(NotAsked()), *(encode(StillOpen(state=each)) for each in ("waiting", "parked"))}
    for number in range(4):
        decided = {record.value for call in calls[number] for record in asker.answers(call)} - open_still
        assert decided <= {REVOKED, encode(Revoked())} or len(decided) <= 1, decided
    if asker.bench.shard.stalled is None:
        assert all(len(asker.answers(call)) == 1 for call in requests)
    ids = [record.header("ask-id") for record in asker.bench.topics[asker.bench.codec.commands]]
    applied = [
        ids[int((record.header("cause") or b"").split(b"/")[2])] for record in asker.bench.topics["t.till.events"]
    ]
    revoked = [record.header("ask-id") for record in asker.bench.dead_letters]
    assert len({*applied, *revoked}) == len(applied) + len(revoked)
