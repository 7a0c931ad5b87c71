"""Bugs of evolution, of the one changelog, and of asks with an id; ``test_named_mutants`` plants them."""

from __future__ import annotations

import heapq
from typing import Any

import msgspec

from repertory.actors import evolution
from repertory.actors.message import Envelope, Sender, WireName
from repertory.actors.shard import answers
from repertory.actors.shard.answers import AnswerTable
from repertory.actors.shard.asked import AskedTurn
from repertory.actors.shard.changelog_digest import ChangelogDigest
from repertory.actors.shard.decision import Decision
from tests.actors import test_evolution as versions
from tests.actors.shard import test_answers as asks
from tests.actors.shard import test_changelog_digest as digests
from tests.campaigns.planting import Patch, mutant, swap

OLDEST, UPCAST = versions.written("Payed", amount=5), versions.Paid(cents=500, currency="DM")


@mutant("actors/shard/answers.py", asks.test_what_may_be_forgotten_is_refused)
def horizon_not_raised(patch: Patch) -> None:
    """The horizon is not raised when an answer is forgotten."""

    def make(evict: Any) -> Any:
        def mutated(table: Any, now_ms: int, evicted_max: int) -> Any:
            before = table.horizon_ms
            entries = list(evict(table, now_ms, evicted_max))
            table.horizon_ms = before
            return entries

        return mutated

    swap(patch, answers._Table, "evict", make)


@mutant("actors/shard/answers.py", asks.test_what_may_be_forgotten_is_refused)
def horizon_in_log_time(patch: Patch) -> None:
    """The horizon is compared with the time of the command in the log, not with the id's own."""

    def make(ask: Any) -> Any:
        def mutated(table: AnswerTable, envelope: Envelope, sender: Sender) -> Any:
            asked = answers.ParsedId.parse(sender.ask)
            header = f"{envelope.timestamp_ms}/{asked.id}"
            known = table._tables[False].records.get(table._tables[False].key(envelope.key, asked))
            late = sender if known is not None or asked.is_auto else msgspec.structs.replace(sender, ask=header)
            return ask(table, envelope, late)

        return mutated

    swap(patch, AnswerTable, "ask", make)


@mutant("actors/shard/answers.py", asks.test_an_id_belongs_to_one_command_of_one_key)
def request_not_compared(patch: Patch) -> None:
    """The digest of the request is ignored: another command with the id gets the first one's answer."""
    patch.setattr(answers, "_is_same", lambda _known, _envelope: True)


@mutant("actors/shard/answers.py", asks.test_what_is_open_is_not_forgotten)
def open_evicted(patch: Patch) -> None:
    """What is owed is evicted as what was answered is."""

    def mutated(table: Any, key: str, record: Any) -> None:
        table.records[key] = record
        heapq.heappush(table._by_time, (record.made_ms, key))

    patch.setattr(answers._Table, "put", mutated)


@mutant("actors/shard/answers.py", asks.test_ids_of_clients_do_not_push_out_those_of_callers)
def one_table(patch: Patch) -> None:
    """Ids that clients make share the table of those that callers give."""

    def make(init: Any) -> Any:
        def mutated(table: AnswerTable, *given: Any) -> None:
            init(table, *given)
            table._tables[True] = table._tables[False]

        return mutated

    swap(patch, AnswerTable, "__init__", make)


@mutant("actors/shard/answers.py", asks.test_a_fast_clock_makes_no_other_id_too_old)
def due_by_answer_alone(patch: Patch) -> None:
    """An answer is forgotten before its id's own time is past, and the horizon lies in the future."""

    def make(evict: Any) -> Any:
        def mutated(table: Any, now_ms: int, evicted_max: int) -> Any:
            return evict(table, now_ms + 300_000, evicted_max)

        return mutated

    swap(patch, answers._Table, "evict", make)


@mutant("actors/shard/asked.py", asks.test_whatever_was_decided_is_the_answer, amount=-1)
def rejection_not_remembered(patch: Patch) -> None:
    """The answer to an ask that was rejected is not remembered."""

    def make(remember: Any) -> Any:
        def mutated(asked: AskedTurn, envelope: Envelope, decision: Decision, seq: int) -> None:
            if not decision.rejected:
                remember(asked, envelope, decision, seq)

        return mutated

    swap(patch, AskedTurn, "remember", make)


@mutant("actors/shard/asked.py", asks.test_a_sender_that_was_kept_answers_its_id_later)
def kept_sender_not_remembered(patch: Patch) -> None:
    """The answer to a sender that was kept is not remembered."""

    def make(decide: Any) -> Any:
        def mutated(asked: AskedTurn, key: str, to: Sender, *rest: Any) -> None:
            if rest[-1] is not None:
                decide(asked, key, to, *rest)

        return mutated

    swap(patch, AskedTurn, "decide", make)


@mutant("actors/shard/turn.py", asks.test_repetitions_of_what_is_parked_wait_for_its_answer)
def stashed_not_opened(patch: Patch) -> None:
    """An ask that is stashed leaves no record of its id: a repetition is stashed beside it."""
    patch.setattr(AskedTurn, "open", lambda _asked, _envelope: None)


@mutant(
    "actors/shard/changelog_digest.py",
    digests.test_it_depends_on_the_live_records_alone,
    writes=[("a", b""), ("a", None)],
)
def tombstone_not_counted(patch: Patch) -> None:
    """The digest of the changelog is not updated on a tombstone."""

    def make(write: Any) -> Any:
        def mutated(digest: ChangelogDigest, key: str, value: bytes | None) -> None:
            if value is not None:
                write(digest, key, value)

        return mutated

    swap(patch, ChangelogDigest, "write", make)


@mutant("actors/evolution.py", versions.test_each_version_is_read_under_each_name, data=OLDEST, message=UPCAST)
def first_step_alone(patch: Patch) -> None:
    """Only the first step towards the current version is taken."""

    def make(step: Any) -> Any:
        def mutated(wire: WireName, written: str, to: int, raw: Any) -> Any:
            return step(wire, written, to, raw) if to == WireName.parse(written).version + 1 else raw

        return mutated

    swap(patch, evolution, "_step", make)
