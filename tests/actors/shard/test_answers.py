"""Asks with an id: each is decided once, and its answer is given again, over crashes, stashes and evictions."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Self

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory import Command, Context, Directive, Entity, Event, Rejection, Sender, command, event, restart
from repertory.actors.control import DropParked, RetryParked
from repertory.actors.message import ClockAhead, Done, IdConflict, TooOld, Undelivered
from repertory.actors.shard.answers import WAITING_MAX, ParsedId
from repertory.actors.shard.asked import NEVER_ANSWERED
from repertory.actors.shard.config import Limits
from repertory.actors.wire import encode
from repertory.bridge.log.record import Record
from tests.actors.shard.bench import Bench


class Pay(Command):
    """Pay; a negative amount is rejected, 13 fails until it is mended."""

    amount: int


class Paid(Event):
    """Paid."""

    amount: int
    total: int


class Refused(Rejection):
    """Not payable."""


class Hold(Command):
    """Is answered later."""


class Release(Command):
    """Answer who was held."""


class Close(Command):
    """Stop: keep the asker then, answer who was held, or neither."""

    how: str = ""


class Held(Event):
    """Somebody waits."""

    sender: Sender | None


class Released(Event):
    """Nobody waits."""


MENDED = {"is": False}


class Till(Entity):
    """Journaled."""

    total: int = 0
    held: Sender | None = None

    @command
    def pay(self, cmd: Pay) -> Paid | Refused | None:
        """Pay."""
        if cmd.amount == 13 and not MENDED["is"]:
            raise ValueError("unlucky")
        if cmd.amount == 0:
            return None
        return Refused() if cmd.amount < 0 else Paid(amount=cmd.amount, total=self.total + cmd.amount)

    @command
    def hold(self, _cmd: Hold, ctx: Context) -> Held:
        """Keep the sender."""
        return Held(sender=ctx.sender)

    @command
    def release(self, _cmd: Release, ctx: Context) -> Released:
        """Answer it."""
        if self.held is not None:
            ctx.reply(Released(), to=self.held)
        return Released()

    @command
    def close(self, cmd: Close, ctx: Context) -> Held | Released | None:
        """End the life."""
        ctx.stop()
        if cmd.how == "keep":
            return Held(sender=ctx.sender)
        return self.release(Release(), ctx) if cmd.how == "answer" else None

    @event
    def paid(self, evt: Paid) -> Self:
        """Add up."""
        return self.replace(total=self.total + evt.amount)

    @event
    def has_held(self, evt: Held) -> Self:
        """Remember."""
        return self.replace(held=evt.sender)

    @event
    def has_released(self, _evt: Released) -> Self:
        """Forget."""
        return self.replace(held=None)


NOW_MS = 1_700_000_000_000


class Teller:
    """Asks of one bench, and the answers."""

    def __init__(self, **limits: float) -> None:
        MENDED["is"] = False
        self.bench = Bench(
            Till,
            limits=Limits(**limits),
            policy=restart(max_restarts=0, on={ValueError: Directive.STOP}),  # type: ignore[arg-type]
        )
        self.calls = 0

    def ask(self, message: Command | bytes, ask_id: str, key: str = "k", correlation_id: str = "") -> str:
        """Ask with an id, and return the correlation id."""
        self.calls += 1
        correlation_id = correlation_id or f"c{self.calls}"
        headers = (
            ("reply-to", b"t.replies/0"), ("correlation-id", correlation_id.encode()), ("ask-id", ask_id.encode())
        )  # fmt: skip
        self.bench.tell(message, key, headers)
        return correlation_id

    def retry(self, key: str) -> None:
        """Retry the parked command of a key, as an operator does."""
        self.bench.tell(RetryParked(offset=self.bench.shard.stash.queue(key)[0].envelope.offset), key)

    def answers(self, correlation_id: str) -> list[Record]:
        """Return the answers to a call."""
        return [
            record for record in self.bench.topics["t.replies"]
            if record.header("correlation-id") == correlation_id.encode()
        ]  # fmt: skip

    def answer(self, correlation_id: str) -> tuple[bytes | None, bool]:
        """Return the one answer to a call, and whether it was given again."""
        found = self.answers(correlation_id)
        assert len(found) == 1, found
        (record,) = found
        return record.value, record.header("again") == b"1"

    @property
    def paid(self) -> int:
        """How often something was paid."""
        return sum(b"Paid" in (record.value or b"") for record in self.bench.topics["t.till.events"])


def own(name: str, made_ms: int = NOW_MS) -> str:
    """Return the header of an id that a caller gave."""
    return f"{made_ms}/{name}"


def auto(made_ms: int = NOW_MS, number: int = 1) -> str:
    """Return the header of an id that a client made."""
    return f"auto/{uuid.UUID(int=made_ms << 80 | 7 << 76 | 2 << 62 | number)}"


def test_fifty_asks_with_one_id_have_one_effect_and_equal_answers() -> None:
    """In one turn or in many, and after a crash; another id is another ask."""
    teller = Teller(batch_records_max=7)
    calls = [teller.ask(Pay(amount=5), own("order-17")) for _ in range(25)]
    teller.bench.run(turns=2)
    calls += [teller.ask(Pay(amount=5), own("order-17")) for _ in range(20)]
    teller.bench.run()
    teller.bench.crash()
    calls += [teller.ask(Pay(amount=5), own("order-17")) for _ in range(5)]
    other = teller.ask(Pay(amount=5), own("order-18"))
    teller.bench.run()
    first, *again = [teller.answer(call) for call in calls]
    assert first == (encode(Paid(amount=5, total=5)), False)
    assert {*again} == {(encode(Paid(amount=5, total=5)), True)}
    assert teller.answer(other) == (encode(Paid(amount=5, total=10)), False)
    assert teller.paid == 2


@pytest.mark.parametrize("amount", [5, 0, -1])
def test_whatever_was_decided_is_the_answer(amount: int) -> None:
    """An event, Done, a rejection; the position is that of the decision."""
    teller = Teller()
    expected = {5: Paid(amount=5, total=5), 0: Done(), -1: Refused()}[amount]
    first = teller.ask(Pay(amount=amount), auto())
    teller.ask(Pay(amount=7), auto(number=2))
    teller.bench.run()
    second = teller.ask(Pay(amount=amount), auto())
    teller.bench.run()
    assert (teller.answer(first), teller.answer(second)) == ((encode(expected), False), (encode(expected), True))
    positions = {record.header("position") for call in (first, second) for record in teller.answers(call)}
    assert positions == {b"till/0/%d" % (amount > 0)}


def test_an_id_belongs_to_one_command_of_one_key() -> None:
    """Another command with it is a conflict, tested before anything else; another key has ids of its own."""
    teller = Teller()
    teller.ask(Pay(amount=5), own("x"))
    conflicts = [teller.ask(Pay(amount=6), own("x")), teller.ask(Hold(), own("x"))]
    far = teller.ask(Pay(amount=6), own("x", made_ms=NOW_MS + 10**10))
    elsewhere = teller.ask(Pay(amount=5), own("x"), key="l")
    teller.bench.run()
    for call in (*conflicts, far):
        assert b"IdConflict" in (teller.answer(call)[0] or b"")
    assert teller.answer(elsewhere) == (encode(Paid(amount=5, total=5)), False)
    assert teller.paid == 2


def test_repetitions_of_what_is_parked_wait_for_its_answer() -> None:
    """Each address once, over a crash; when it is decided, all get the answer. A drop is an answer too."""
    teller = Teller()
    first = teller.ask(Pay(amount=13), own("x"))
    behind = teller.ask(Pay(amount=1), own("y"))
    teller.bench.run()
    joined = [teller.ask(Pay(amount=13), own("x")) for _ in range(3)]
    joined.append(teller.ask(Pay(amount=1), own("y")))
    resent = teller.ask(Pay(amount=13), own("x"), correlation_id=first)
    teller.bench.run()
    assert resent == first
    assert not any(teller.answers(call) for call in (first, behind, *joined))
    conflict = teller.ask(Pay(amount=14), own("x"))
    teller.bench.run()
    assert b"IdConflict" in (teller.answer(conflict)[0] or b"")
    teller.bench.crash()
    MENDED["is"] = True
    teller.retry("k")
    teller.bench.run()
    paid = encode(Paid(amount=13, total=13))
    assert teller.answer(first) == (paid, False)
    assert [teller.answer(call) for call in joined[:3]] == [(paid, True)] * 3
    assert teller.answer(joined[3]) == (encode(Paid(amount=1, total=14)), True)
    assert teller.paid == 2


def test_answers_that_are_given_again_fill_a_turn() -> None:
    """However many repeat their asks at once, no transaction is larger than it may be."""
    teller = Teller(turn_bytes_max=1_000)
    teller.ask(Pay(amount=5), own("x"))
    teller.bench.run()
    calls = [teller.ask(Pay(amount=5), own("x")) for _ in range(500)]
    teller.bench.run(turns=1)
    size_bytes = sum(len(record.value or b"") for call in calls for record in teller.answers(call))
    assert 0 < size_bytes < 1_100
    teller.bench.run()
    assert {teller.answer(call) for call in calls} == {(encode(Paid(amount=5, total=5)), True)}


def test_a_drop_is_an_answer() -> None:
    """Who waits is told, and so is who asks later, though the command would succeed by then."""
    teller = Teller()
    first = teller.ask(Pay(amount=13), own("x"))
    joined = teller.ask(Pay(amount=13), own("x"))
    teller.bench.run()
    offset = teller.bench.shard.stash.queue("k")[0].envelope.offset
    teller.bench.tell(DropParked(offset=offset, reason="of no use"), "k")
    teller.bench.run()
    MENDED["is"] = True
    teller.bench.crash()
    late = teller.ask(Pay(amount=13), own("x"))
    teller.bench.run()
    answer, again = teller.answer(first)
    assert not again
    assert b"Undelivered" in (answer or b"") and b"of no use" in (answer or b"")
    assert [teller.answer(call) for call in (joined, late)] == [(answer, True)] * 2
    assert teller.paid == 0


def test_so_many_wait_for_one_answer_and_no_more() -> None:
    """One beyond that is dropped: its client asks again."""
    teller = Teller()
    teller.ask(Pay(amount=13), own("x"))
    calls = [teller.ask(Pay(amount=13), own("x")) for _ in range(WAITING_MAX + 2)]
    teller.bench.run()
    MENDED["is"] = True
    teller.retry("k")
    teller.bench.run()
    assert sum(len(teller.answers(call)) for call in calls) == WAITING_MAX


def test_a_sender_that_was_kept_answers_its_id_later() -> None:
    """Until then repetitions wait; after it they get the stored answer."""
    teller = Teller()
    first = teller.ask(Hold(), own("x"))
    teller.bench.run()
    waiting = teller.ask(Hold(), own("x"))
    teller.bench.run()
    teller.bench.crash()
    assert not teller.answers(first) + teller.answers(waiting)
    teller.bench.tell(Release())
    teller.bench.run()
    late = teller.ask(Hold(), own("x"))
    teller.bench.run()
    answer = encode(Released())
    assert [teller.answer(call) for call in (first, waiting, late)] == [(answer, False), (answer, True), (answer, True)]


@pytest.mark.parametrize("crashes", [False, True])
def test_who_stops_answers_what_it_has_kept(crashes: bool) -> None:  # noqa: FBT001
    """All who wait are told so, whoever asks later too, and nothing is open any more; another key keeps its own."""
    teller = Teller(answers_per_shard_max=1)
    held = [teller.ask(Hold(), made) for made in (own("y"), own("x"), auto(), own("x"), own("x"))]
    other = teller.ask(Hold(), own("x"), "l")
    teller.bench.run()
    if crashes:
        teller.bench.crash()
    assert not any(teller.answers(call) for call in (*held, other))
    teller.bench.tell(Close())
    late = teller.ask(Hold(), own("y"))
    teller.bench.run()
    assert [teller.answer(call) for call in held] == [(NEVER_ANSWERED, again) for again in (*[False] * 3, *[True] * 2)]
    assert teller.answer(late) == (NEVER_ANSWERED, True)
    assert not teller.answers(other)
    teller.ask(Pay(amount=1), own("z", NOW_MS + 1))
    teller.bench.run()
    assert len(teller.bench.shard._asks) == 3  # One answer of each kind, and what the other key has kept.
    teller.bench.tell(Release(), "l")
    teller.bench.run()
    assert teller.answer(other) == (encode(Released()), False)


@pytest.mark.parametrize("crashes", [False, True])
def test_what_is_stashed_outlives_its_key(crashes: bool) -> None:  # noqa: FBT001
    """It is handled in the next life. What was stashed, and has kept its sender since, is answered."""
    teller = Teller()
    kept = [teller.ask(Hold(), own("x"))]
    parked = teller.ask(Pay(amount=13), own("y"))
    kept.append(teller.ask(Hold(), own("x2")))
    teller.bench.tell(Close())
    behind = [teller.ask(Pay(amount=1), own("z")) for _ in range(2)]
    teller.bench.run()
    if crashes:
        teller.bench.crash()
    MENDED["is"] = True
    teller.retry("k")
    teller.bench.run()
    assert [teller.answer(call)[0] for call in kept] == [NEVER_ANSWERED] * 2
    assert teller.answer(parked) == (encode(Paid(amount=13, total=13)), False)
    assert [teller.answer(call)[0] for call in behind] == [encode(Paid(amount=1, total=1))] * 2


@pytest.mark.parametrize(("how", "answer", "own_answer"), [
    ("keep", NEVER_ANSWERED, NEVER_ANSWERED), ("answer", encode(Released()), encode(Released())),
    ("", NEVER_ANSWERED, encode(Done())),
])  # fmt: skip
def test_the_command_that_stops_comes_first(how: str, answer: bytes, own_answer: bytes) -> None:
    """What it answers is the answer; if it keeps its own asker, nobody is left who would answer that one."""
    teller = Teller()
    held, close = teller.ask(Hold(), own("x")), teller.ask(Close(how=how), own("y"))
    teller.bench.run()
    again = teller.ask(Close(how=how), own("y"))
    teller.bench.run()
    assert teller.answer(held) == (answer, False)
    assert teller.answer(close) == (own_answer, False)
    assert teller.answer(again) == (own_answer, True)


def test_answers_at_the_end_of_a_life_fill_a_turn() -> None:
    """As those that are given again do."""
    teller = Teller(turn_bytes_max=len(NEVER_ANSWERED))
    teller.ask(Hold(), own("x"))
    teller.bench.run()
    teller.bench.tell(Close())
    behind = teller.ask(Pay(amount=1), own("y"))
    teller.bench.run(turns=1)
    assert not teller.answers(behind)


def test_an_id_from_the_future_is_refused_and_not_remembered() -> None:
    """By the time of the log: once it is no longer ahead, it is decided."""
    teller = Teller()
    at_ms = teller.bench.now_ms + 300_000 + 60_000
    early = teller.ask(Pay(amount=5), own("x", made_ms=at_ms))
    teller.bench.run()
    assert b"ClockAhead" in (teller.answer(early)[0] or b"")
    fine = teller.ask(Pay(amount=5), own("y", made_ms=at_ms - 70_000))
    teller.bench.run()
    assert teller.answer(fine) == (encode(Paid(amount=5, total=5)), False)


def test_an_answer_that_the_log_refuses_leaves_a_trace() -> None:
    """At least once too: without one it would be found again after each later refusal, and none of them be the last."""
    bench = Bench(Till, limits=Limits(delivery="at-least-once"))
    bench.take_over("n#1")
    headers = (("reply-to", b"t.replies/0"), ("correlation-id", b"c"), ("ask-id", f"{NOW_MS + 10**10}/x".encode()))
    for _ in range(2):
        bench.tell(Pay(amount=5), "k", headers)
    bench.shard = bench.restored(refused={0: "no such topic"})
    bench.fetch(1)
    turn = bench.turn()
    assert turn is not None and turn.refused == (0,) and not turn.outputs
    assert not turn.nontransactional
    bench.fetch()
    turn = bench.turn()
    assert turn is not None and len(turn.outputs) == 1
    assert turn.nontransactional


def test_what_may_be_forgotten_is_refused() -> None:
    """The lowest own time goes first; an id from before it is too old, in the table or not, also after a crash."""
    teller = Teller(answers_per_shard_max=3)
    calls = {number: teller.ask(Pay(amount=number), own(f"x{number}", NOW_MS + number)) for number in (4, 1, 5, 3, 2)}
    teller.bench.run()
    assert teller.paid == 5
    teller.bench.crash()
    again = {number: teller.ask(Pay(amount=number), own(f"x{number}", NOW_MS + number)) for number in (1, 2, 3, 4, 5)}
    unknown_old = teller.ask(Pay(amount=9), own("z", NOW_MS + 2))
    unknown_new = teller.ask(Pay(amount=9), own("z", NOW_MS + 6))
    teller.bench.run()
    for number in (1, 2):
        assert b"TooOld" in (teller.answer(again[number])[0] or b"")
    for number in (3, 4, 5):
        assert teller.answer(again[number]) == (teller.answer(calls[number])[0], True)
    assert b"TooOld" in (teller.answer(unknown_old)[0] or b"")
    assert b"Paid" in (teller.answer(unknown_new)[0] or b"")
    assert teller.paid == 6


@pytest.mark.parametrize(("refused_ms", "kind"), [(-900_000, TooOld), (900_000, ClockAhead)])
@pytest.mark.parametrize("horizon_ms", [-250_000, 250_000])
def test_a_refusal_says_what_time_an_id_may_have(
    refused_ms: int, kind: type[TooOld | ClockAhead], horizon_ms: int
) -> None:
    """That of the log. It is too old if ids that were made ahead have gone: then what comes after the horizon."""
    teller = Teller(answers_per_shard_max=1)
    for number in (1, 2):
        teller.ask(Pay(amount=1), auto(NOW_MS + horizon_ms + number, number))
    teller.bench.run()
    refused = teller.ask(Pay(amount=1), auto(NOW_MS + refused_ms, 3))
    teller.bench.run()
    refusal = msgspec.msgpack.decode(teller.answer(refused)[0] or b"", type=kind)
    log_ms = teller.bench.topics[teller.bench.codec.commands][-1].timestamp_ms
    assert refusal.log_ms == (NOW_MS + 250_002 if kind is TooOld and horizon_ms > 0 else log_ms)
    anew = teller.ask(Pay(amount=1), auto(refusal.log_ms, 4))
    teller.bench.run()
    assert (b"Paid" in (teller.answer(anew)[0] or b"")) == (kind is TooOld or horizon_ms < 0)


def test_what_is_open_is_not_forgotten() -> None:
    """However many others come, and however old it is."""
    teller = Teller(answers_per_shard_max=1)
    parked = teller.ask(Pay(amount=13), own("old", NOW_MS))
    for number in range(5):
        teller.ask(Pay(amount=1), own(f"x{number}", NOW_MS + 1 + number), key="l")
    teller.bench.run()
    again = teller.ask(Pay(amount=13), own("old", NOW_MS))
    teller.bench.run()
    MENDED["is"] = True
    teller.retry("k")
    teller.bench.run()
    assert teller.answer(parked)[0] == teller.answer(again)[0] == encode(Paid(amount=13, total=13))


def test_ids_of_clients_do_not_push_out_those_of_callers() -> None:
    """Each kind has a table, a cap and a horizon."""
    teller = Teller(answers_per_shard_max=2)
    call = teller.ask(Pay(amount=1), own("x", NOW_MS))
    for number in range(10):
        teller.ask(Pay(amount=1), auto(NOW_MS + number, number))
    teller.bench.run()
    again = teller.ask(Pay(amount=1), own("x", NOW_MS))
    teller.bench.run()
    assert teller.answer(again) == (teller.answer(call)[0], True)


def test_answers_are_kept_for_a_time() -> None:
    """From the moment of answering, by the owner's clock."""
    teller = Teller(answers_kept_s=10)
    teller.ask(Pay(amount=1), own("x"))
    teller.bench.run()
    teller.bench.now_ms += 9_000
    within = teller.ask(Pay(amount=1), own("x"))
    teller.bench.run()
    teller.bench.now_ms += 2_000
    teller.ask(Pay(amount=1), own("y", NOW_MS + 1))
    teller.bench.run()
    after = teller.ask(Pay(amount=1), own("x"))
    teller.bench.run()
    assert teller.answer(within)[1]
    assert b"TooOld" in (teller.answer(after)[0] or b"")
    assert teller.paid == 2


@pytest.mark.parametrize("made", [own, auto])
def test_an_id_that_is_ahead_shuts_no_other_out(made: Callable[..., str]) -> None:
    """It is kept until its own time is past as well: no horizon is in the future of clients with a sound clock."""
    teller = Teller(answers_kept_s=10, ask_timeout_max_s=10)
    now_ms = teller.bench.now_ms
    ahead = teller.ask(Pay(amount=1), f"{now_ms + 250_000}/x" if made is own else auto(now_ms + 250_000))
    teller.bench.run()
    teller.bench.now_ms += 100_000
    teller.bench.tell(Pay(amount=1))
    teller.bench.run()
    call = teller.ask(Pay(amount=1), f"{now_ms + 100_000}/y" if made is own else auto(now_ms + 100_000, 2))
    teller.bench.run()
    assert b"Paid" in (teller.answer(ahead)[0] or b"")
    assert b"Paid" in (teller.answer(call)[0] or b"")


@pytest.mark.parametrize(
    "header",
    ["", "x", "/x", "-1/x", "1/", "1/a\0b", "auto/", "auto/x", f"auto/{uuid.UUID(int=4 << 76)}", "9" * 16 + "/x"],
)
def test_an_invalid_id_is_a_dead_letter(header: str) -> None:
    """Its asker is told so; nothing is applied."""
    with pytest.raises(ValueError, match=r"."):
        ParsedId.parse(header)
    teller = Teller()
    call = teller.ask(Pay(amount=1), header)
    teller.bench.run()
    assert teller.paid == 0
    assert len(teller.bench.topics["t.dead-letters"]) == 1
    assert not teller.answers(call)  # Whoever cannot write the header cannot be told apart from garbage.


# --- what cannot be decoded -----------------------------------------------------------------------------------

#: A message that the till does not take, one without its field, and none at all.
REFUND = b"\x82\xa4type\xa6Refund\xa6amount\x05"
BAD = (REFUND, b"\x81\xa4type\xa3Pay", b"\xc1", b"")


@pytest.mark.parametrize("bad", BAD)
def test_an_ask_that_cannot_be_decoded_is_decided(bad: bytes) -> None:
    """It is a dead letter once, also over a crash: asked again it is answered again, and nothing else has its id."""
    teller = Teller()
    first, second = teller.ask(bad, own("x")), teller.ask(bad, own("x"))
    teller.bench.run()
    teller.bench.crash()
    third, mended, other = teller.ask(bad, own("x")), teller.ask(Pay(amount=5), own("x")), teller.ask(bad, own("y"))
    teller.bench.run()
    answer, again = teller.answer(first)
    assert not again
    assert b"Undelivered" in (answer or b"")
    assert teller.answer(second) == teller.answer(third) == (answer, True)
    assert b"IdConflict" in (teller.answer(mended)[0] or b"")
    assert teller.answer(other) == (answer, False)
    assert teller.paid == 0
    assert len(teller.bench.dead_letters) == 2


def test_what_cannot_be_decoded_has_no_id_of_another() -> None:
    """It is a conflict like any other command, and no dead letter; so it is where its id is in the future."""
    teller = Teller()
    first, kept = teller.ask(Pay(amount=5), own("x")), teller.ask(Hold(), own("y"))
    bad = [teller.ask(b"\xc1", own("x")), teller.ask(REFUND, own("y"))]
    far = teller.ask(b"\xc1", own("z", made_ms=NOW_MS + 10**10))
    teller.bench.run()
    assert teller.answer(first) == (encode(Paid(amount=5, total=5)), False)
    assert not teller.answers(kept)
    assert all(b"IdConflict" in (teller.answer(call)[0] or b"") for call in bad)
    assert b"ClockAhead" in (teller.answer(far)[0] or b"")
    assert not teller.bench.dead_letters


class Refund(Command):
    """A newer build takes it."""

    amount: int


class Newer(Entity, name="till"):
    """The till of a newer build."""

    @command
    def refund(self, _cmd: Refund) -> Paid | None:
        """Change nothing."""
        return Paid(amount=0, total=0) if _cmd.amount == 0 else None

    @event
    def paid(self, _evt: Paid) -> Self:
        """Change nothing."""
        return self


def test_another_build_gives_the_same_answer() -> None:
    """What one could not read is not applied by a newer one, and what that has applied an older one answers too."""
    teller = Teller()
    old, new = teller.bench, Bench(Newer)
    new.topics, new.ends = old.topics, old.ends
    first = teller.ask(REFUND, own("x"))
    old.run()
    again, applied = teller.ask(REFUND, own("x")), teller.ask(REFUND, own("y"))
    new.committed = old.committed
    new.crash()
    new.run()
    repeated = teller.ask(REFUND, own("y"))
    old.committed = new.committed
    old.crash()
    old.run()
    assert b"Undelivered" in (teller.answer(first)[0] or b"")
    assert teller.answer(again) == (teller.answer(first)[0], True)
    assert teller.answer(applied) == (encode(Done()), False)
    assert teller.answer(repeated) == (encode(Done()), True)


@pytest.mark.parametrize("key", [b"\xff", b"a\0b", b"x" * 300, b"", None])
def test_what_has_no_key_has_no_id(key: bytes | None) -> None:
    """No entity can ever take it: its answer is the same each time, whatever it holds, and nothing is remembered."""
    teller = Teller()
    headers = (("reply-to", b"t.replies/0"), ("correlation-id", b"c"), ("ask-id", own("x").encode()))
    for value in (encode(Pay(amount=1)), b"\xc1", None):
        teller.bench.tell(value, key, headers)
    teller.bench.run()
    assert len({record.value for record in teller.answers("c")}) == 1
    assert len(teller.bench.dead_letters) == 3
    assert len(teller.bench.shard._asks) == 0


#: An ask whose command cannot be decoded, one that is answered later, and one that stops its entity.
BROKEN, HELD, CLOSED = 99, 98, 97
#: The commands that are asked, by amount.
ASKED = {BROKEN: b"\xc1", HELD: Hold(), CLOSED: Close()}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 3), st.sampled_from([1, 2, 13, -1, 0, *ASKED]), st.sampled_from("kl")),
        st.tuples(st.just("run"), st.integers(1, 4)),
        st.just(("crash",)),
        st.just(("compact",)),
        st.tuples(st.just("retry"), st.sampled_from("kl")),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(STEPS, st.integers(1, 4))
def test_an_id_has_at_most_one_effect_and_equal_answers(steps: list[tuple[object, ...]], answers_max: int) -> None:
    """Whatever comes when: repetitions, crashes, compaction, retries, evictions under a tight cap."""
    teller = Teller(answers_per_shard_max=answers_max, batch_records_max=2)
    asked: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for step in steps:
        match step:
            case ("ask", int(number), int(amount), str(key)):
                name = f"x{number}"
                message = ASKED.get(amount, Pay(amount=amount))
                call = teller.ask(message, own(name, NOW_MS + number), key)
                asked.setdefault((key, name), []).append((call, amount))
            case ("run", int(batch)):
                teller.bench.run(turns=batch)
            case ("crash",):
                teller.bench.crash()
            case ("compact",):
                teller.bench.compact(teller.bench.codec.state)
            case ("retry", str(key)) if key in teller.bench.shard.stash:
                MENDED["is"] = True
                teller.retry(key)
                teller.bench.run()
                MENDED["is"] = False
    for key in "kl":
        teller.bench.tell(Close(), key)
    teller.bench.run()
    for (key, _), calls in asked.items():
        assert key in teller.bench.shard.stash or all(teller.answers(call) for call, _ in calls), "what is kept ends"
        found = [(record.value or b"", amount) for call, amount in calls for record in teller.answers(call)]
        assert all(len(teller.answers(call)) <= 1 for call, _ in calls)
        decided = {
            (value, amount) for value, amount in found
            if not any(name in value for name in (b"IdConflict", b"TooOld"))
        }  # fmt: skip
        assert len(decided) <= 1, decided
    events = [record for record in teller.bench.topics["t.till.events"] if b"Paid" in (record.value or b"")]
    assert len(events) <= len(asked)


def test_refusals_are_messages_of_the_runtime() -> None:
    """Their names cannot be taken by an application."""
    assert {type(each).__name__ for each in (IdConflict(), ClockAhead(), TooOld(), Undelivered(reason=""))} == {
        "IdConflict", "ClockAhead", "TooOld", "Undelivered"
    }  # fmt: skip
