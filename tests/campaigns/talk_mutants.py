"""Bugs of evolution, of the one changelog, and of asks with an id; ``test_named_mutants`` plants them."""

from __future__ import annotations

from typing import Any

import msgspec

from repertory.actors import evolution
from repertory.actors.message import Envelope, Sender, WireName
from repertory.actors.shard import answers
from repertory.actors.shard.answers import AnswerTable
from repertory.actors.shard.asked import AskedTurn
from repertory.actors.shard.changelog_digest import ChangelogDigest
from tests.actors import test_evolution as versions
from tests.actors.shard import test_answers as asks
from tests.actors.shard import test_changelog_digest as digests
from tests.campaigns.planting import Patch, mutant, swap

OLDEST, UPCAST = versions.written("Payed", amount=5), versions.Paid(cents=500, currency="DM")


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


@mutant("actors/shard/answers.py", asks.test_ids_of_clients_do_not_push_out_those_of_callers)
def one_table(patch: Patch) -> None:
    """Ids that clients make share the table of those that callers give."""

    def make(init: Any) -> Any:
        def mutated(table: AnswerTable, *given: Any) -> None:
            init(table, *given)
            table._tables[True] = table._tables[False]

        return mutated

    swap(patch, AnswerTable, "__init__", make)


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
