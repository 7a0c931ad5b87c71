"""Urgent commands behind one for which the stash has no room: they are handled before it, once, whatever crashes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from repertory import Directive, restart
from repertory.actors.context import OutputTooLarge
from repertory.actors.control import RevokeAsk
from repertory.actors.headers import Headers
from repertory.actors.saga.messages import CancelSaga, SkipUndo
from repertory.actors.saga.progress import SagaPhase
from repertory.actors.shard.ahead import AHEAD_MAX
from repertory.actors.shard.config import Limits
from repertory.bridge.journal import Inconsistent
from tests.actors.saga.domain import Approve, Begin, Store, Taken
from tests.actors.shard.bench import Bench
from tests.actors.shard.test_urgent import POLICY, Careless


def stalled(**limits: Any) -> Bench:
    """Return a shard with two parked sagas, ``a`` and ``b``, and no room for another signal to ``a``."""
    bench = Bench(
        Careless, others=[Store], policy=POLICY, limits=Limits(stash_per_key_max=1, **limits), owner="one"
    )  # fmt: skip
    park(bench, "a")
    park(bench, "b")
    bench.tell(Approve(by="ann"), "a")
    bench.run()
    assert bench.shard.stalled is not None
    return bench


def park(bench: Bench, key: str, headers: Headers = ()) -> None:
    """Park a saga that has taken something."""
    life = bench.tell(Begin(), key, headers)
    bench.run()
    bench.tell(Taken(), key, headers=(("about", b"~%d/0" % life),))
    bench.tell(Approve(by="eve"), key)
    bench.run()
    (stashed,) = bench.shard.stash.queue(key)
    assert stashed.record.parked


def by_entity(about: str, own: str = "") -> Headers:
    """Return the headers of what the store ``p`` asks; ``about`` is that of the ask, ``own`` that of a revoke."""
    return (
        ("reply-to", b"t.store.commands"), ("reply-key", b"p"), ("correlation-id", b"c"),
        ("about", (own or about).encode()),
    )  # fmt: skip


def phase(bench: Bench, key: str) -> SagaPhase:
    """Return what a saga does."""
    cell: Any = bench.shard.cells.get(key)
    found: SagaPhase = cell.state.progress.phase
    return found


def answers(bench: Bench) -> list[tuple[str, str]]:
    """Return who was answered what."""
    return [
        ((record.header("correlation-id") or b"").decode(), msgspec.msgpack.decode(record.value or b"")["type"])
        for record in bench.topics["t.replies"]
    ]


def test_a_cancel_reaches_the_saga_that_fills_the_stash() -> None:
    """It makes room, so all that it has overtaken is handled, in order."""
    bench = stalled()
    bench.ask(CancelSaga(), "a", correlation_id="cancel")
    bench.run()
    assert (phase(bench, "a"), bench.shard.stalled, len(bench.shard.mailbox)) == (SagaPhase.SETTLING, None, 0)
    assert (answers(bench), bench.record.ahead) == ([("cancel", "Done")], ())
    assert not bench.dead_letters


@pytest.mark.parametrize("crash", ["before", "behind", "later"])
def test_what_was_handled_before_its_turn_is_handled_once(crash: str) -> None:
    """The offset stays at the command without room; a restart knows what is behind it and was handled."""
    bench = stalled()
    head = bench.record.next
    cancel = bench.ask(CancelSaga(), "b", correlation_id="cancel b")
    bench.fetch()
    if crash == "before":
        bench.lose_turn()
    bench.run()
    assert (bench.record.next, bench.committed, bench.record.ahead) == (head, head, (cancel,))
    assert (phase(bench, "a"), phase(bench, "b")) == (SagaPhase.RUNNING, SagaPhase.SETTLING)
    if crash == "behind":
        bench.crash()
        bench.run()
    bench.ask(CancelSaga(), "a", correlation_id="cancel a")
    if crash == "later":
        bench.fetch()
        bench.lose_turn()
    bench.run()
    assert answers(bench) == [("cancel b", "Done"), ("cancel a", "Done")]
    assert (bench.record.ahead, bench.shard.stash.size) == ((), 0)
    assert len({*bench.causes()}) == len(bench.causes())


def test_effects_and_timers_of_what_was_handled_before_its_turn_are_restored() -> None:
    """They were scheduled by a command that the offset does not say to be handled."""
    bench = stalled()
    bench.tell(CancelSaga(), "b")
    bench.run()
    bench.crash()
    assert [each.key for each in bench.shard.effects.records.values()] == ["b"]


def test_a_repeated_request_is_answered_again() -> None:
    """What was asked with an id before is not done again, before its turn or in it."""
    bench = stalled()
    ids = (("ask-id", b"1700000000000/mine"), ("reply-to", b"t.replies/0"))
    for name in (b"1", b"2"):
        bench.tell(CancelSaga(), "b", (*ids, ("correlation-id", name)))
    bench.run()
    bench.crash()
    bench.tell(CancelSaga(), "a")
    bench.run()
    assert answers(bench) == [("1", "Done"), ("2", "Done")]


def test_requests_of_other_keys_wait_for_their_turn() -> None:
    """A saga without a stash: what it waits for may be in the mailbox before the request."""
    bench = stalled()
    bench.tell(Begin(), "c")
    bench.ask(CancelSaga(), "c")
    bench.run()
    assert (answers(bench), bench.record.ahead) == ([], ())
    bench.tell(CancelSaga(), "a")
    bench.run()
    assert answers(bench) == [("c", "Done")]


def test_a_parent_that_rolls_back_reaches_its_child() -> None:
    """A revoke cancels the saga that was started by the ask."""
    bench = Bench(Careless, others=[Store], policy=POLICY, limits=Limits(stash_per_key_max=1))
    park(bench, "a", by_entity("~5/0"))
    bench.tell(Approve(by="ann"), "a")
    bench.run()
    bench.tell(RevokeAsk(about="~5/0"), "a", by_entity("~5/0", "~5/0/revoke"))
    bench.run()
    assert (phase(bench, "a"), bench.shard.stash.size) == (SagaPhase.SETTLING, 0)


def test_a_revoke_does_not_overtake_its_ask() -> None:
    """It would find nothing, and the ask would be applied afterwards."""
    bench = stalled()
    bench.tell(Approve(by="ida"), "a", by_entity("~5/0"))
    bench.tell(RevokeAsk(about="~5/0"), "a", by_entity("~5/0", "~5/0/revoke"))
    bench.run()
    assert bench.record.ahead == ()
    bench.tell(CancelSaga(), "a")
    bench.run()
    assert [each["type"] for each in bench.values("t.store.commands")] == ["Take", "Take", "repertory.too-late"]


def test_a_request_that_fails_before_its_turn_is_a_dead_letter() -> None:
    """The stash would hold it before commands of its key that are in the mailbox."""
    policy = restart(on={ValueError: Directive.STOP, OutputTooLarge: Directive.RESTART})
    bench = Bench(Careless, others=[Store], policy=policy, limits=Limits(stash_per_key_max=2, output_bytes_max=4_000))
    for key in ("a", "b"):
        park(bench, key)
    for _ in range(2):
        bench.tell(Approve(by="ann"), "a")
    bench.tell(Approve(by="ann"), "b")
    bench.ask(CancelSaga(reason="\N{SNOWMAN}" * 999), "b")
    bench.run()
    assert bench.errors() == ["NoRoom"]
    bench.tell(CancelSaga(), "a")
    bench.crash()
    bench.run()
    assert (phase(bench, "a"), bench.errors(), bench.record.ahead) == (SagaPhase.SETTLING, ["NoRoom"], ())


def test_after_a_node_went_down_it_is_announced_and_handled_alone() -> None:
    """Each command of the mailbox may have been the cause, this one too; and it is reached all the same."""
    bench = stalled()
    cancel = bench.ask(CancelSaga(), "b")
    bench.take_over("two")
    guarded = []
    for _ in range(20):
        bench.fetch()
        if bench.turn() is not None:
            guarded.append(bench.record.guarded)
    assert cancel in guarded
    assert (answers(bench), phase(bench, "b")) == ([("c", "Done")], SagaPhase.SETTLING)


def test_a_request_that_kills_each_process_is_given_up() -> None:
    """Its deaths are counted as those of any command, before its turn too."""
    bench = stalled()
    cancel = bench.ask(CancelSaga(), "b")
    for pid in range(3):
        bench.take_over("one", [(cancel, pid)])
    bench.run()
    assert (bench.errors(), phase(bench, "b")) == (["Quarantined"], SagaPhase.RUNNING)
    bench.crash()
    bench.tell(CancelSaga(), "a")
    bench.run()
    assert (bench.errors(), bench.record.ahead) == (["Quarantined"], ())


def test_a_bounded_number_is_handled_before_its_turn() -> None:
    """Each shard record names them; the others wait, and none is lost."""
    bench = stalled()
    for _ in range(AHEAD_MAX + 5):
        bench.ask(SkipUndo(step=0), "b")
    bench.run()
    assert len(bench.record.ahead) == AHEAD_MAX
    bench.shard.offer([])
    assert not bench.shard.ready(bench.now_ms)


def test_a_log_that_has_lost_what_was_handled_is_refused() -> None:
    """Other commands with the offsets of those would be skipped."""
    bench = stalled()
    cancel = bench.tell(CancelSaga(), "b")
    bench.run()
    bench.ends[bench.codec.commands] = cancel
    with pytest.raises(Inconsistent, match="its tail is lost"):
        bench.crash()
