"""Bugs of evolution, of the one changelog, and of asks with an id; ``test_named_mutants`` plants them."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import msgspec
import pytest

from repertory.actors import evolution
from repertory.actors.message import Envelope, Sender, TooOld, Undecodable, WireName
from repertory.actors.shard import answers
from repertory.actors.shard.answers import AnswerTable
from repertory.actors.shard.asked import AskedTurn
from repertory.actors.shard.changelog_digest import ChangelogDigest
from repertory.actors.shard.query_runner import QueryRunner
from repertory.actors.shard.recovered import RecoveredShard
from repertory.actors.shard.shard import Shard
from repertory.actors.shard.turn import Turn
from repertory.bridge.departures import Departures
from repertory.bridge.recovery import Recovery
from repertory.bridge.system.ask import Ask
from repertory.bridge.system.log_time import LogTime
from repertory.bridge.system.replies import FollowedReplies
from tests.actors import domain
from tests.actors import test_evolution as versions
from tests.actors.shard import test_answers as asks
from tests.actors.shard import test_changelog_digest as digests
from tests.actors.shard import test_queries as queries
from tests.actors.shard import test_torn_changelog as torn
from tests.bridge import test_builds as builds
from tests.bridge import test_recovery as recoveries
from tests.bridge import test_wrong_clocks as clocks
from tests.bridge.system import test_ask as clients
from tests.campaigns.planting import Patch, mutant, swap

Table = answers._Table
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


@mutant("actors/shard/turn.py", asks.test_an_ask_that_cannot_be_decoded_is_decided, bad=asks.REFUND)
def undecodable_not_decided(patch: Patch) -> None:
    """What is answered to an ask that cannot be decoded is not remembered: another build applies it."""

    def make(decide: Any) -> Any:
        def mutated(turn: AskedTurn, *given: Any) -> None:
            if not isinstance(given[-1], Undecodable):
                decide(turn, *given)

        return mutated

    swap(patch, AskedTurn, "decide", make)


@mutant("actors/shard/asked.py", asks.test_who_stops_answers_what_it_has_kept, crashes=False)
def kept_outlives_its_entity(patch: Patch) -> None:
    """Open ids survive the end of life: who repeats the ask waits for ever."""
    patch.setattr(AskedTurn, "end", lambda *_: None)


@mutant(
    "actors/shard/answers.py", asks.test_a_refusal_says_what_time_an_id_may_have,
    refused_ms=-900_000, kind=TooOld, horizon_ms=-250_000,
)  # fmt: skip
def time_not_said(patch: Patch) -> None:
    """An id that is too old is refused without a word on what the time is."""
    patch.setattr(answers, "TooOld", lambda reason, **_: TooOld(reason=reason))


@mutant(
    "bridge/system/client_core.py", clocks.test_what_was_sent_twice_may_be_applied, refusal=TooOld(log_ms=clocks.LOG_MS)
)
def asked_anew_in_doubt(patch: Patch) -> None:
    """A client whose id is refused asks anew, though an earlier attempt may be applied."""

    def make(refused: Any) -> Any:
        def mutated(ask: Ask) -> Any:
            ask.attempts = 1
            return refused(ask)

        return mutated

    swap(patch, Ask, "id_refused", make)


@mutant("bridge/system/log_time.py", clocks.test_it_is_asked_anew_with_another_id, refusal=TooOld(log_ms=clocks.LOG_MS))
def time_not_learned(patch: Patch) -> None:
    """A client goes on with its wrong clock."""
    patch.setattr(LogTime, "learn", lambda *_: None)


@mutant("bridge/recovery.py", asks.test_who_stops_answers_what_it_has_kept, crashes=True)
def kept_is_not_restored(patch: Patch) -> None:
    """The next owner of a shard does not know which ids wait for a sender that was kept."""
    patch.setattr(Table, "keep", lambda *_: None)


@mutant("actors/shard/answers.py", asks.test_what_is_stashed_outlives_its_key, crashes=True)
def stashed_is_kept(patch: Patch) -> None:
    """A restore takes what is stashed for kept: it is answered when its key stops, and applied afterwards."""
    swap(patch, AnswerTable, "load", lambda load: lambda table, records, _stashed: load(table, records, ()))


@mutant(
    "actors/shard/changelog_digest.py",
    digests.test_it_depends_on_the_live_records_alone,
    writes=[("a", b""), ("a", None)],
)
def tombstone_not_counted(patch: Patch) -> None:
    """The digest of the changelog is not updated on a tombstone."""

    def make(write: Any) -> Any:
        def mutated(digest: ChangelogDigest, key: str, value: bytes | None, seq: int = -1) -> None:
            if value is not None:
                write(digest, key, value, seq)

        return mutated

    swap(patch, ChangelogDigest, "write", make)


@mutant(
    "bridge/recovery.py",
    torn.test_each_live_record_is_missed,
    steps=[(asks.Pay(amount=5), "k", 1, True), (asks.Pay(amount=13), "l", None, True)],
    window=4,
    kept=1,
)
def digest_not_compared(patch: Patch) -> None:
    """A restored changelog is not compared with the digest of the shard record."""

    def make(checked_record: Any) -> Any:
        def mutated(recovery: Recovery) -> Any:
            return msgspec.structs.replace(checked_record(recovery), digest=None)

        return mutated

    swap(patch, Recovery, "_checked_record", make)


@mutant(
    "actors/shard/query_runner.py",
    queries.test_a_query_sees_each_command_before_it_and_none_behind_it,
    messages=[domain.Deposit(amount=1), domain.GetBalance()],
)
def queries_before_commands(patch: Patch) -> None:
    """A query is answered from the state before the commands of its own turn are decided."""
    committed: dict[str, Any] = {}

    def after(commit: Any) -> Any:
        def mutated(shard: Shard, *given: Any) -> None:
            commit(shard, *given)
            committed.update((key, cell.state) for key, cell in shard._entities.cells.items())

        return mutated

    def make(run: Any) -> Any:
        def mutated(runner: QueryRunner, envelope: Envelope, turn: Turn) -> None:
            cell = runner._entities.cells.get(envelope.key)
            if cell is None:
                run(runner, envelope, turn)
                return
            state = cell.state
            cell.state = committed.get(envelope.key, runner._config.behaviour.initial())
            run(runner, envelope, turn)
            cell.state = state

        return mutated

    swap(patch, Shard, "committed", after)
    swap(patch, QueryRunner, "_run", make)


@mutant("actors/evolution.py", versions.test_each_version_is_read_under_each_name, data=OLDEST, message=UPCAST)
def first_step_alone(patch: Patch) -> None:
    """Only the first step towards the current version is taken."""

    def make(step: Any) -> Any:
        def mutated(wire: WireName, written: str, to: int, raw: Any) -> Any:
            return step(wire, written, to, raw) if to == WireName.parse(written).version + 1 else raw

        return mutated

    swap(patch, evolution, "_step", make)


@mutant("bridge/recovery.py", recoveries.test_stashed_commands_of_an_older_build_are_upcast)
def stash_not_upcast(patch: Patch) -> None:
    """A stashed command of an older build is restored without its upcaster, under the name of the current version."""

    def make(restore_stashed: Any) -> Any:
        def mutated(recovery: Recovery, found: RecoveredShard) -> None:
            with pytest.MonkeyPatch.context() as skipping:
                skipping.setattr(evolution, "_step", lambda _wire, _written, _to, raw: raw)
                restore_stashed(recovery, found)

        return mutated

    swap(patch, Recovery, "_restore_stashed", make)


@mutant("bridge/departures.py", builds.test_a_command_of_a_newer_build_is_no_dead_letter)
def unknown_is_dead(patch: Patch) -> None:
    """A command whose name only a newer build knows is a dead letter, as one that no build knows."""
    patch.setattr(Departures, "see", lambda departures, assigned, _deliveries: departures.concern(assigned))


@mutant("bridge/system/replies.py", clients.test_nothing_is_sent_before_the_log_has_said_where_the_replies_end)
def end_read_late(patch: Patch) -> None:
    """A client reads where the replies end after the command was sent: it misses an answer that is fast."""

    def make(open_: Any) -> Any:
        def mutated(replies: FollowedReplies, ask: Ask) -> Future[None]:
            open_(replies, ask)
            at_once: Future[None] = Future()
            at_once.set_result(None)
            return at_once

        return mutated

    swap(patch, FollowedReplies, "open", make)
