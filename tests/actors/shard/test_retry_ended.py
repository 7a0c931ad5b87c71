"""An operator who retries a command is told how it ended, in the transaction of that end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import pytest

from repertory import Backoff, Command, Directive, Entity, Event, Rejection, command, event, restart
from repertory.actors.control import RetryParked
from repertory.actors.shard.changelog import RETRY_INDEX, STASH_KEY
from repertory.actors.shard.config import Limits
from repertory.actors.wire import encode
from repertory.bridge.changelog_codec import decode_stashed
from tests.actors.shard.bench import REPLY_TO, Bench

OUTCOME = {"now": "stop"}


class Try(Command):
    """Do what `OUTCOME` says."""


class Tried(Event):
    """It was done."""


class No(Rejection):
    """It was rejected."""

    why: str


class Trier(Entity):
    """Does what `OUTCOME` says."""

    times: int = 0

    @command
    def attempt(self, cmd: Try) -> Tried | No | None:
        """Apply, reject, or fail."""
        match OUTCOME["now"]:
            case "apply":
                return Tried()
            case "nothing":
                return None
            case "reject":
                return No(why="no money")
            case "stop":
                raise ValueError("a bug")
            case "resume":
                raise KeyError("of no use")
        raise RuntimeError("comes and goes")

    @event
    def tried(self, _evt: Tried) -> Self:
        """Count."""
        return self.replace(times=self.times + 1)


POLICY = restart(
    max_restarts=1,
    backoff=Backoff(first_s=0.1, factor=1, jitter=0),
    on={ValueError: Directive.STOP, KeyError: Directive.RESUME},
)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Return a shard with a parked command at offset 0, and one behind it."""
    OUTCOME["now"] = "stop"
    bench = Bench(Trier, policy=POLICY)
    bench.tell(Try())
    bench.tell(Try())
    bench.settle()
    yield bench
    OUTCOME["now"] = "stop"


def ended(bench: Bench) -> list[dict[str, Any]]:
    """Return the outcomes in the replies topic, without their type."""
    found = [answer for answer in bench.replies if answer["type"] == "repertory.retry-ended"]
    return [{name: value for name, value in answer.items() if name != "type"} for answer in found]


@pytest.mark.parametrize(
    ("now", "outcome", "error", "reply"),
    [
        ("apply", "applied", "", encode(Tried())),
        ("nothing", "applied", "", b""),
        ("reject", "rejected", "", encode(No(why="no money"))),
        ("stop", "parked", "ValueError", b""),
        ("resume", "dead-lettered", "KeyError", b""),
        ("restart", "parked", "RuntimeError", b""),
    ],
)
@pytest.mark.parametrize("crashes", [False, True])
def test_the_outcome_of_a_retried_command(
    bench: Bench, now: str, outcome: str, error: str, reply: bytes, *, crashes: bool
) -> None:
    """Once, with the reason; a crash between request and end, and restarts on the way, change nothing."""
    OUTCOME["now"] = now
    bench.tell(RetryParked(offset=0), headers=REPLY_TO)
    if crashes:
        bench.fetch()
        bench.lose_turn()
        bench.run(1)
        bench.crash()
    bench.settle()
    (found,) = ended(bench)
    assert (found["outcome"], found["error"].rpartition(".")[2], found["reply"]) == (outcome, error, reply)
    assert bool(found["reason"]) == bool(error)
    causes = [dict(record.headers)["cause"] for record in bench.topics["t.replies"]]
    assert b"t.trier.commands/0/2/%d" % RETRY_INDEX in causes
    assert len(set(causes)) == len(causes)
    bench.restored()


def test_only_the_retried_command_is_answered(bench: Bench) -> None:
    """Not those behind it; and a retry that nobody waits for, or that comes too late, has no outcome."""
    bench.tell(RetryParked(offset=0))
    bench.tell(RetryParked(offset=1), headers=REPLY_TO)
    bench.settle()
    assert ended(bench) == []
    OUTCOME["now"] = "apply"
    bench.tell(RetryParked(offset=0), headers=REPLY_TO)
    bench.tell(RetryParked(offset=0), headers=REPLY_TO)
    bench.settle()
    assert [found["outcome"] for found in ended(bench)] == ["applied"]


def test_each_retry_has_its_own_outcome(bench: Bench) -> None:
    """A command that is parked again waits for nobody until it is retried again."""
    for now in ("stop", "stop", "apply"):
        OUTCOME["now"] = now
        bench.tell(RetryParked(offset=0), headers=REPLY_TO)
        bench.settle()
        stashed = [record for record in bench.topics["t.trier.state"] if record.key == STASH_KEY + b"0"]
        kept = None if stashed[-1].value is None else decode_stashed(stashed[-1].value).retry
        assert kept is None or not kept.open
    assert [found["outcome"] for found in ended(bench)] == ["parked", "parked", "applied"]


def test_a_retry_that_is_carried_out_before_its_turn() -> None:
    """A full stash stalls the shard, not its operators; after a crash the same request is read again, and is over."""
    OUTCOME["now"] = "stop"
    bench = Bench(Trier, policy=POLICY, limits=Limits(stash_per_shard_max=1))
    bench.tell(Try())
    bench.tell(Try())
    bench.tell(RetryParked(offset=0), headers=REPLY_TO)
    bench.settle()
    assert bench.shard.record.next == 1
    for _ in range(3):
        bench.crash()
        bench.settle()
    assert [found["outcome"] for found in ended(bench)] == ["parked"]
    OUTCOME["now"] = "apply"
    bench.tell(RetryParked(offset=0), headers=REPLY_TO)
    bench.settle()
    assert [found["outcome"] for found in ended(bench)] == ["parked", "applied"]
    assert bench.shard.record.next == 4


@pytest.mark.parametrize(
    ("to", "is_answered"),
    [(b"t.replies/0/x", True), (b"t.replies/9/x", False), (b"other/0/x", False), (b"t.replies", False), (b"", False)],
)
@pytest.mark.parametrize("now", ["apply", "reject", "resume", "stop", "restart"])
def test_the_outcome_of_a_retried_dead_letter(bench: Bench, now: str, to: bytes, *, is_answered: bool) -> None:
    """A dead letter is appended again with the address of the operator; an invalid one is nobody's, and harmless."""
    OUTCOME["now"] = now
    bench.tell(Try(), "other", (("retry-of", b"t.dead-letters/0/0"), ("retry-to", to)))
    bench.settle()
    outcomes = {"apply": "applied", "reject": "rejected", "resume": "dead-lettered", "stop": "parked"}
    assert [found["outcome"] for found in ended(bench)] == ([outcomes.get(now, "parked")] if is_answered else [])
    for letter in bench.dead_letters:
        assert "retry-to" not in dict(letter.headers)
    bench.restored()


def test_a_retried_dead_letter_behind_a_parked_command(bench: Bench) -> None:
    """It waits there, and its operator with it."""
    bench.tell(Try(), headers=(("retry-to", b"t.replies/0/x"),))
    bench.settle()
    assert ended(bench) == []
    bench.crash()
    OUTCOME["now"] = "apply"
    bench.tell(RetryParked(offset=0))
    bench.settle()
    assert [found["outcome"] for found in ended(bench)] == ["applied"]


def test_a_retried_dead_letter_that_cannot_be_decoded(bench: Bench) -> None:
    """Bytes that no type knows are a dead letter again, and the operator is told."""
    for headers in ((), (("reply-to", b"nobody"),)):
        bench.tell(b"\xc1", "other", (*headers, ("retry-to", b"t.replies/0/x")))
    bench.settle()
    assert [(found["outcome"], found["error"]) for found in ended(bench)] == [("dead-lettered", "DecodeError")] * 2
