"""Asks with an id, as ``verify`` sees them: each id is decided once, and its answers are equal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest

from repertory import ActorSystem, AskId, Directive, OutcomeUnknown, Undelivered, restart
from repertory.actors.headers import ASK_ID
from repertory.actors.wire import encode
from tests.actors.shard.test_answers import MENDED, Close, Hold, Paid, Pay, Release, Till
from tests.repertory.verify import test_verify
from tests.repertory.verify.test_verify import Copy

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def copy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copy]:
    """Yield the log of a till that was asked again and again, with one key parked, and senders kept."""
    system = ActorSystem("v")
    system.host(Till, partitions=1, supervise=restart(max_restarts=0, on={ValueError: Directive.STOP}))
    MENDED["is"] = False
    with system.start() as running:
        client = running.client
        for _ in range(3):
            client.ask(Till.pay, "k", Pay(amount=5), id=AskId("one", AT))
        client.ask(Till.pay, "k", Pay(amount=6), id=AskId("one", AT))
        client.ask(Till.pay, "k", Pay(amount=7))
        client.ask(Till.pay, "k", Pay(amount=-7), id=AskId("two", AT))
        client.ask(Till.pay, "k", Pay(amount=8), id=AskId("far", datetime(2100, 1, 1, tzinfo=UTC)))
        for _ in range(2):
            client.tell_all([(Till.pay, "k", Pay(amount=1))])
        client.tell(Till.hold, "l", Hold())
        client.tell(Till.release, "l", Release())
        with pytest.raises(OutcomeUnknown):
            client.ask(Till.hold, "n", Hold(), id=AskId("kept", AT), timeout_s=0.01)
        client.tell(Till.close, "n", Close())
        assert isinstance(client.ask(Till.hold, "n", Hold(), id=AskId("kept", AT)), Undelivered)
        client.tell(Till.pay, "m", Pay(amount=13))
        running.settle()
        monkeypatch.setattr(test_verify, "system", system)
        yield Copy.of(running)


def test_a_log_with_repeated_asks_passes(copy: Copy) -> None:
    """Each command has a fate: those that were not decided are answered again, or refused for their id."""
    report = copy.report()
    assert not [str(offender) for check in report.checks for offender in check.offenders]
    assert report.fates["answered again"] >= 4  # The client may have repeated the ask that was kept.
    assert report.fates["refused for its id"] == 1
    assert report.fates["rejected"] == 1
    assert report.fates["parked"] == 1


def test_a_second_decision_about_an_id_is_found(copy: Copy) -> None:
    """Another command that was applied has the same id."""
    first = copy.first("till.commands", lambda r: r.header(ASK_ID) is not None)
    other = copy.first("till.commands", lambda r: r.value == encode(Pay(amount=7)))
    asked = (ASK_ID, first.header(ASK_ID) or b"")
    copy.alter(other, headers=(*(each for each in other.headers if each[0] != ASK_ID), asked))
    assert "is decided, but command 0 has the same id" in str(copy.failing()["duplicates"].offenders)


def test_another_answer_to_an_id_is_found(copy: Copy) -> None:
    """The one that was given again says something else than the first."""
    again = copy.first(".replies", lambda r: r.header("again") is not None)
    copy.alter(again, value=encode(Paid(amount=5, total=50)))
    assert "is another answer to an id" in str(copy.failing()["replies"].offenders)


def test_a_stored_answer_that_is_missing_is_found(copy: Copy) -> None:
    """By the digest of the changelog."""
    copy.lose(copy.last("till.state", lambda r: (r.key or b"").startswith(b"\0answer/")))
    assert "has another digest" in str(copy.failing()["shard records"].offenders)


def test_a_garbled_answer_is_found(copy: Copy) -> None:
    """It cannot be decoded."""
    record = copy.last("till.state", lambda r: (r.key or b"").startswith(b"\0auto/"))
    copy.alter(record, value=msgspec.msgpack.encode({"type": "Answer"}))
    assert "cannot be decoded" in str(copy.failing()["states"].offenders)
