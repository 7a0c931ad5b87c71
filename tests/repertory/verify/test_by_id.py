"""``repertory verify`` passes a log with requests about asks, and finds an answer to one that is missing or wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import cache

import pytest

from repertory.actors.control import FetchAnswer, Revoke
from repertory.actors.headers import ASK_ID
from repertory.bridge.log.record import Record
from tests.actors.domain import Deposit, Trip
from tests.repertory.verify.test_verify import Copy, WrittenLog, cause, with_header

MADE_MS = 1_700_000_000_000


@cache
def clean() -> Copy:
    """Return a log with asks that were revoked, waiting and parked and behind others, and with ones that were not."""
    written = WrittenLog()

    def ask(message: Deposit | Trip, name: str, key: str) -> None:
        address = (("reply-to", b"v.replies/3"), ("correlation-id", f"{key}-{name}".encode()))
        written.tell("account", message, key, (*address, (ASK_ID, f"{MADE_MS}/{name}".encode())))

    with closing(written.running):
        for key in "abc":
            for error in ("restart", "stop"):
                ask(Deposit(amount=3), f"applied-{error}", key)
                ask(Trip(times=9, error=error), f"first-{error}", key)
                ask(Deposit(amount=4), f"behind-{error}", key)
                ask(Deposit(amount=5), f"last-{error}", key)
                written.running.settle()
                for name in ("applied", "behind", "first", "last", "unknown", "first"):
                    for request in (FetchAnswer, Revoke, FetchAnswer):
                        if name != "last" or request is FetchAnswer:
                            written.ask("account", request(id=f"{name}-{error}", made_at_ms=MADE_MS), key)
                written.tell("account", Revoke(id="unknown", made_at_ms=MADE_MS), key)
                written.settle()
        return Copy.of(written.running)


@pytest.fixture
def copy() -> Copy:
    """Return a copy of the clean log."""
    return Copy(clean().topics, clean().committed, clean().ids)


def test_a_log_with_revoked_asks_passes(copy: Copy) -> None:
    """Each revoked ask is a dead letter, each other is applied, and each request is of its own fate."""
    report = copy.report()
    assert not [str(offender) for check in report.checks for offender in check.offenders]
    assert not any(check.unverifiable for check in report.checks)
    assert report.fates == {"applied": 12, "dead-lettered": 12, "about an ask": 108}
    assert [record.header("error-type") for record in copy.all("v.dead-letters")] == [b"Revoked"] * 12


def answer_to(copy: Copy, request: bytes) -> Record:
    """Return the answer to the last request of a kind. The first record of a topic may be deleted: it is not missed."""
    asked = copy.last(
        "account.commands", lambda record: request in (record.value or b"") and record.header("reply-to") is not None
    )
    made = f"v.account.commands/{asked.partition}/{asked.offset}/".encode()
    return copy.first("v.replies", lambda record: cause(record).startswith(made))


def a_fetch_without_an_answer(copy: Copy) -> None:
    """Its reply is missing."""
    copy.lose(answer_to(copy, b"repertory.fetch-answer"))


def an_answer_went_elsewhere(copy: Copy) -> None:
    """The reply to a revoke is on another partition."""
    answer = answer_to(copy, b"repertory.revoke")
    copy.lose(answer)
    copy.add(answer, partition=(answer.partition + 1) % 8)


def a_second_answer(copy: Copy) -> None:
    """A revoke has two replies."""
    answer = answer_to(copy, b"repertory.revoke")
    copy.add(answer, headers=with_header(answer, "cause", cause(answer)[:-1] + b"1"))


def the_asker_is_not_told(copy: Copy) -> None:
    """A revoked ask has no reply."""
    copy.lose(copy.first("v.replies", lambda record: record.header("correlation-id") == b"b-first-stop"))


def it_was_applied_as_well(copy: Copy) -> None:
    """The dead letter of a revoked ask is missing."""
    copy.lose(copy.last("v.dead-letters"))


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (a_fetch_without_an_answer, "atomicity"),
        (an_answer_went_elsewhere, "replies"),
        (a_second_answer, "decisions"),
        (the_asker_is_not_told, "atomicity"),
        (it_was_applied_as_well, "decisions"),
    ],
)
def test_what_is_wrong_is_found(copy: Copy, damage: Callable[[Copy], None], check: str) -> None:
    """An answer that is missing, astray or one too many, and a revoked ask without its records."""
    damage(copy)
    failing = copy.failing()
    assert check in failing, failing
