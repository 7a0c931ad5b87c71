"""``repertory verify`` decides queries again on the state that they were answered from, and finds a wrong answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from functools import cache

import pytest

from repertory import Undelivered
from repertory.actors.wire import encode
from repertory.bridge.log.record import Record
from tests.actors.domain import Account, Balance, Deposit, GetBalance, Trip
from tests.apps.mixed import load
from tests.repertory.verify.test_verify import Copy, WrittenLog, cause, with_header


@cache
def clean() -> Copy:
    """Return a log with queries among all kinds of commands, before and behind stashed ones, and that fail."""
    written = WrittenLog()
    draw = random.Random(7)  # noqa: S311  reproducible on purpose
    with closing(written.running):
        for _ in range(8):
            load(written, draw, 20)
            for key in "abcdp":
                written.ask("account", GetBalance(), key)
            written.tell("account", GetBalance(), draw.choice("abcd"))
            written.ask("account", GetBalance(error=draw.choice(["restart", "stop", "escalate"])), draw.choice("ab"))
            written.running.settle()
        for error, times in (("restart", 1), ("stop", 9)):
            written.tell("account", Deposit(amount=7), error)
            written.tell("account", Trip(times=times, error=error), error)
            written.tell("account", Deposit(amount=5), error)
            written.ask("account", GetBalance(), error)
        written.settle()
        written.misplace("account", GetBalance())
        written.settle()
        return Copy.of(written.running)


@pytest.fixture
def copy() -> Copy:
    """Return a copy of the clean log."""
    return Copy(clean().topics, clean().committed, clean().ids)


def is_balance(record: Record) -> bool:
    """Return whether a reply is the answer to a query."""
    return b"Balance" in (record.value or b"")


def test_answers_are_decided_again(copy: Copy) -> None:
    """Each query is of the fate ``answered``, whatever its answer; those before a retried command are as well."""
    report = copy.report()
    assert not [str(offender) for check in report.checks for offender in check.offenders]
    asked = [r for r in copy.all("account.commands") if b"GetBalance" in (r.value or b"")]
    assert report.fates["answered"] == len(asked) - 1
    assert not any(check.unverifiable for check in report.checks)


def test_an_answer_from_before_a_stashed_command_was_planted(copy: Copy) -> None:
    """The log that is verified has an answer that is not that of all commands before it."""
    reply = next(
        reply
        for command in copy.all("account.commands")
        if command.key == b"restart" and b"GetBalance" in (command.value or b"")
        for reply in copy.all("v.replies")
        if cause(reply).startswith(f"v.account.commands/{command.partition}/{command.offset}/".encode())
    )
    assert reply.value == encode(Balance(amount=7))


def another_answer(copy: Copy) -> None:
    """An answer names a balance that no state has had."""
    copy.alter(copy.first("v.replies", is_balance), value=encode(Balance(amount=10_001)))


def an_answer_is_missing(copy: Copy) -> None:
    """A query that was asked has no reply."""
    copy.lose(copy.last("v.replies", is_balance))


def an_answer_went_elsewhere(copy: Copy) -> None:
    """The reply to a failed query has the correlation id of nobody, on another partition."""
    reply = copy.first("v.replies", lambda r: b"Undelivered" in (r.value or b"") and b"no look" in (r.value or b""))
    copy.lose(reply)
    copy.add(reply, partition=(reply.partition + 1) % 8)


def an_answer_nobody_asked_for(copy: Copy) -> None:
    """A query without reply-to has a reply."""
    told = copy.first("account.commands", lambda r: b"GetBalance" in (r.value or b"") and r.header("reply-to") is None)
    reply = copy.first("v.replies", is_balance)
    copy.add(
        reply, headers=with_header(reply, "cause", f"v.account.commands/{told.partition}/{told.offset}/0".encode())
    )


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (another_answer, "decisions"),
        (an_answer_is_missing, "completeness"),
        (an_answer_went_elsewhere, "replies"),
        (an_answer_nobody_asked_for, "decisions"),
    ],
)
def test_a_wrong_answer_is_found(copy: Copy, damage: Callable[[Copy], None], check: str) -> None:
    """An answer that the state does not give, a missing one, and one too many."""
    damage(copy)
    failing = copy.failing()
    assert any(check in name for name in failing), failing


def test_of_a_failed_query_the_reason_is_not_compared(copy: Copy) -> None:
    """It may name an address in memory, or say that the log refused the answer; so it is with dead letters."""
    reply = copy.first("v.replies", lambda r: b"Undelivered" in (r.value or b"") and b"no look" in (r.value or b""))
    copy.alter(reply, value=encode(Undelivered(reason="RuntimeError: at 0x7f")))
    assert copy.report().ok
    assert Account().balance == 0
