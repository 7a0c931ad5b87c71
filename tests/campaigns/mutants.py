"""Mutants: bugs that are planted in the runtime one at a time, and that the simulator must find.

``python -m tests.campaigns.mutants`` writes their table. A mutant patches the runtime while it is planted; the runtime
itself has no code for it.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from repertory import Strategy
from repertory.actors.shard import decision, failure
from repertory.actors.shard.intake import Intake
from repertory.actors.shard.mailbox import Delivery, Mailbox
from repertory.actors.shard.redelivery import Redelivery
from repertory.actors.shard.shard import Shard
from repertory.actors.shard.snapshot_window import SnapshotWindow
from repertory.actors.shard.stash import Stash
from repertory.actors.shard.turn import Turn
from repertory.actors.shard.turn_result import Counts, TurnResult
from repertory.bridge import nontransactional
from repertory.bridge.assigned_shard import AssignedShard
from repertory.bridge.codec import Codec
from repertory.bridge.log.embedded import schema
from repertory.bridge.log.embedded.backend import EmbeddedAppender
from repertory.bridge.log.embedded.log import EmbeddedLog
from repertory.bridge.log.embedded.store import grouped
from repertory.bridge.log.port import (
    Append,
    Claimed,
    Committed,
    Lost,
    Transaction,
)
from repertory.bridge.loop import ShardLoop
from repertory.bridge.nontransactional import CountingJournal, NontransactionalRecovery, Placed
from repertory.bridge.recovery import Recovery
from repertory.bridge.refusals import Refusals
from repertory.bridge.region import ShardRegion
from repertory.bridge.system.system import ActorSystem
from repertory.simulation import FAULTS, PROJECTION_FAULTS, Scenario
from repertory.simulation.api import silence
from repertory.simulation.faulty_log import FaultyLog
from repertory.supervision import machine, policy
from tests.apps import gauges, simulated
from tests.support.paths import ROOT

DOCS = ROOT / "docs" / "reliability.rst"
FIRST_SEED = 5_000
SCENARIO = Scenario(system=simulated.system, commands=simulated.commands, allowed_errors=simulated.allowed_errors)


def at_least_once(system: ActorSystem) -> ActorSystem:
    """Return the same system with at-least-once delivery."""
    settings = msgspec.structs.replace(system.settings, delivery="at-least-once")
    made = ActorSystem(system.name, settings=settings, publishes=system.publishes)
    for entity, hosted in system.hosted.items():
        made.host(entity, partitions=hosted.partitions, supervise=hosted.policy)
    return made


#: Handlers run out of memory, and nothing else is wrong: for what other faults would hide.
MEMORY_SCENARIO = Scenario(
    system=simulated.system, commands=simulated.commands, kinds=("memory",), allowed_errors=simulated.allowed_errors
)
#: Outputs are refused, and nothing else is wrong.
REFUSING_SCENARIO = Scenario(
    system=simulated.system, commands=simulated.commands, kinds=("refuse",), allowed_errors=simulated.allowed_errors
)
AT_LEAST_ONCE_SCENARIO = Scenario(
    system=at_least_once(simulated.system), commands=simulated.commands, allowed_errors=simulated.allowed_errors
)


TYPED_SCENARIO = Scenario(system=gauges.system, commands=gauges.commands)


class Mutant(NamedTuple):
    """A planted bug. It must be found within ``seeds`` seeds."""

    name: str
    where: str
    plant: Callable[[ExitStack], None]
    seeds: int
    scenario: Scenario


MUTANTS: list[Mutant] = []


def mutant(
    where: str, *, seeds: int = 40, scenario: Scenario = SCENARIO
) -> Callable[[Callable[[ExitStack], None]], Callable[[ExitStack], None]]:
    """Register a mutant; its docstring's first line is its name."""

    def register(plant: Callable[[ExitStack], None]) -> Callable[[ExitStack], None]:
        name = (plant.__doc__ or "").strip().rstrip(".")
        MUTANTS.append(Mutant(name[0].lower() + name[1:], where, plant, seeds, scenario))
        return plant

    return register


class Found(NamedTuple):
    """How a mutant was found."""

    seeds: int
    rule: str
    detail: str


def find(planted: Mutant) -> Found | None:
    """Run seeds with a mutant until a promise breaks."""
    with ExitStack() as stack, silence():
        planted.plant(stack)
        for count in range(1, planted.seeds + 1):
            result = planted.scenario.run(FIRST_SEED + count)
            if result.violation is not None:
                return Found(count, result.rule, result.violation)
    return None


def swap(stack: ExitStack, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute by the result of ``make`` for it."""
    stack.enter_context(patch.object(owner, name, make(getattr(owner, name))))


# --- refused outputs ------------------------------------------------------------------------------------------


@mutant("bridge/refusals.py", scenario=REFUSING_SCENARIO)
def all_blamed(stack: ExitStack) -> None:
    """Every command whose record was refused together with another is judged."""

    def make(blame: Any) -> Any:
        return lambda refusals, refused, result, shard: blame(
            refusals, msgspec.structs.replace(refused, all_refused=True), result, shard
        )

    swap(stack, Refusals, "blame", make)


@mutant("bridge/refusals.py", scenario=REFUSING_SCENARIO)
def first_blamed(stack: ExitStack) -> None:
    """The first of the commands that were refused together is judged."""

    def make(blame: Any) -> Any:
        return lambda refusals, refused, result, shard: blame(
            refusals, msgspec.structs.replace(refused, outputs=refused.outputs[:1]), result, shard
        )

    swap(stack, Refusals, "blame", make)


@mutant("bridge/refusals.py", scenario=REFUSING_SCENARIO)
def refusal_forgotten(stack: ExitStack) -> None:
    """A refused command is handled again, and refused again."""
    swap(stack, Refusals, "reasons", lambda _: property(lambda _refusals: {}))


# --- the loop -------------------------------------------------------------------------------------------------


def _in_two(first: Callable[[Transaction], list[Any]]) -> Callable[[Any], Any]:
    """Commit some records in a transaction before the rest."""

    def make(commit: Any) -> Any:
        def mutated(log: FaultyLog, transaction: Transaction) -> None:
            early = first(transaction)
            late = [record for record in transaction.records if record not in early]
            commit(log, msgspec.structs.replace(transaction, records=early))
            commit(log, msgspec.structs.replace(transaction, records=late))

        return mutated

    return make


@mutant("bridge/loop.py")
def offset_first(stack: ExitStack) -> None:
    """The offset is committed before the outputs."""
    swap(stack, FaultyLog, "commit", _in_two(lambda transaction: list(transaction.records[-1:])))


def _at_once(suffix: str) -> Callable[[Any], Any]:
    """Append the records of some topics without waiting for the commit."""

    def make(commit: Any) -> Any:
        def mutated(log: FaultyLog, transaction: Transaction) -> None:
            early = [record for record in transaction.records if record.topic.endswith(suffix)]
            late = [record for record in transaction.records if not record.topic.endswith(suffix)]
            inner: Any = log._inner
            EmbeddedAppender(inner._store).append(early)
            commit(log, msgspec.structs.replace(transaction, records=late))

        return mutated

    return make


@mutant("bridge/loop.py")
def reply_first(stack: ExitStack) -> None:
    """Replies leave before their commit."""
    swap(stack, FaultyLog, "commit", _at_once(".replies"))


@mutant("bridge/loop.py")
def dead_letter_outside(stack: ExitStack) -> None:
    """Dead letters are written outside the transaction."""
    swap(stack, FaultyLog, "commit", _at_once(".dead-letters"))


def _keep(stack: ExitStack, use: Callable[[AssignedShard, Shard], None]) -> None:
    """Keep a shard that is dropped after an abort, and call ``use`` with it and the restored shard."""
    kept: dict[int, Shard] = {}

    def aborted(original: Any) -> Any:
        def mutated(loop: ShardLoop, assigned: AssignedShard, reason: str, *, routine: bool) -> None:
            if assigned.shard is not None:
                kept[id(assigned)] = assigned.shard
            original(loop, assigned, reason, routine=routine)

        return mutated

    def replay_next(original: Any) -> Any:
        def mutated(loop: ShardLoop, assigned: AssignedShard, event: Any) -> None:
            original(loop, assigned, event)
            if assigned.shard is not None and (old := kept.pop(id(assigned), None)) is not None:
                use(assigned, old)

        return mutated

    swap(stack, ShardLoop, "_aborted", aborted)
    swap(stack, ShardLoop, "_replay_next", replay_next)


@mutant("bridge/loop.py")
def dirty_state(stack: ExitStack) -> None:
    """The state in memory is kept after an abort."""

    def use(assigned: AssignedShard, old: Shard) -> None:
        assert assigned.shard is not None
        assigned.shard._entities.cells = old.cells

    _keep(stack, use)


@mutant("bridge/loop.py")
def unknown_is_committed(stack: ExitStack) -> None:
    """An unknown outcome is taken for a commit."""

    def use(assigned: AssignedShard, old: Shard) -> None:
        old.mailbox = assigned.shard.mailbox if assigned.shard is not None else old.mailbox
        assigned._shard = old

    _keep(stack, use)


@mutant("bridge/loop.py")
def no_rewind(stack: ExitStack) -> None:
    """Input is not rewound after an abort."""
    seen: dict[Any, int] = defaultdict(int)

    def fetched(original: Any) -> Any:
        def mutated(loop: ShardLoop, assigned: AssignedShard, deliveries: list[Delivery]) -> None:
            if deliveries:
                seen[id(loop), assigned.place] = deliveries[-1].offset + 1
            original(loop, assigned, deliveries)

        return mutated

    def aborted(original: Any) -> Any:
        def mutated(loop: ShardLoop, assigned: AssignedShard, reason: str, *, routine: bool) -> None:
            original(loop, assigned, reason, routine=routine)
            assigned.skips = True  # type: ignore[attr-defined]

        return mutated

    def replay_next(original: Any) -> Any:
        def mutated(loop: ShardLoop, assigned: AssignedShard, event: Any) -> None:
            original(loop, assigned, event)
            if assigned.shard is not None and getattr(assigned, "skips", False):
                loop._log.begin(assigned.place, max(assigned.shard.record.next, seen[id(loop), assigned.place]))

        return mutated

    swap(stack, ShardLoop, "_fetched", fetched)
    swap(stack, ShardLoop, "_aborted", aborted)
    swap(stack, ShardLoop, "_replay_next", replay_next)


@mutant("bridge/loop.py")
def lost_is_kept(stack: ExitStack) -> None:
    """A shard that was lost is not dropped."""

    def on_shard(original: Any) -> Any:
        def mutated(loop: ShardLoop, assigned: AssignedShard, event: Any, now_s: float) -> None:
            if not isinstance(event, Lost):
                original(loop, assigned, event, now_s)

        return mutated

    swap(stack, ShardLoop, "_on_shard", on_shard)


@mutant("bridge/region.py")
def restart_at_once(stack: ExitStack) -> None:
    """A shard that its supervisor lets wait is claimed again at once."""

    def supervise(original: Any) -> Any:
        def mutated(region: ShardRegion, event: Any, now_s: float) -> Any:
            commands = original(region, event, now_s)
            for child in region.tree.children:
                assigned = region.named(child.name)
                if child.phase.value == "waiting" and assigned is not None:
                    assigned.claim_due_s = now_s
            return commands

        return mutated

    swap(stack, ShardRegion, "supervise", supervise)


# --- restore --------------------------------------------------------------------------------------------------


@mutant("bridge/recovery.py")
def short_restore(stack: ExitStack) -> None:
    """A restore ends one journal record too early."""

    def claimed(original: Any) -> Any:
        def mutated(recovery: Recovery, config: Any, codec: Any, event: Claimed) -> None:
            ends = {topic: max(0, end - (topic == codec.events)) for topic, end in event.ends.items()}
            original(recovery, config, codec, msgspec.structs.replace(event, ends=ends))

        return mutated

    swap(stack, Recovery, "__init__", claimed)


@mutant("actors/shard/snapshot_window.py")
def late_tail(stack: ExitStack) -> None:
    """The tail of the journal begins one record too late."""
    swap(stack, SnapshotWindow, "tail_start", lambda start: lambda window, seq: min(seq, start(window, seq) + 1))


@mutant("actors/shard/snapshot_window.py", seeds=80)
def early_tombstone(stack: ExitStack) -> None:
    """An ended life is forgotten while the tail still holds it."""
    swap(stack, SnapshotWindow, "forgettable", lambda _: lambda window, _tail: list(window._ended))


@mutant("actors/shard/snapshot_window.py")
def no_snapshot(stack: ExitStack) -> None:
    """An entity is taken for snapshotted that is not."""

    def due(original: Any) -> Any:
        def mutated(window: SnapshotWindow, seq: int) -> list[str]:
            keys: list[str] = original(window, seq)
            for key in keys[1:]:
                window.snapshotted(key)
            return keys[:1]

        return mutated

    swap(stack, SnapshotWindow, "due", due)


# --- the shard ------------------------------------------------------------------------------------------------


@mutant("actors/shard/stash.py")
def reversed_queue(stack: ExitStack) -> None:
    """What waits behind a failed command runs in reverse."""

    def leave(original: Any) -> Any:
        def mutated(stash: Stash, key: str) -> None:
            original(stash, key)
            if key in stash:
                stash._queues[key] = deque(reversed(stash._queues[key]))
                stash._schedule(stash._queues[key][0])

        return mutated

    swap(stack, Stash, "leave", leave)


@mutant("actors/shard/shard.py")
def overtaking(stack: ExitStack) -> None:
    """Commands overtake those of their key that wait."""
    swap(stack, Stash, "__contains__", lambda _: lambda _stash, _key: False)


@mutant("actors/shard/mailbox.py")
def dropping(stack: ExitStack) -> None:
    """A full mailbox drops what comes."""

    def offer(original: Any) -> Any:
        def mutated(mailbox: Mailbox, deliveries: Iterable[Delivery]) -> None:
            for delivery in deliveries:
                if not mailbox.is_full():
                    original(mailbox, [delivery])

        return mutated

    swap(stack, Mailbox, "offer", offer)


@mutant("actors/shard/intake.py")
def tells_are_lost(stack: ExitStack) -> None:
    """What a command tells others is lost when it is tried again."""

    def retry(original: Any) -> Any:
        def mutated(intake: Intake, key: str, now_ms: int, turn: Any) -> None:
            before = len(turn.outputs)
            original(intake, key, now_ms, turn)
            turn.outputs[before:] = [output for output in turn.outputs[before:] if type(output).__name__ != "Told"]

        return mutated

    swap(stack, Intake, "retry", retry)


@mutant("actors/shard/decision.py", scenario=TYPED_SCENARIO)
def live_state(stack: ExitStack) -> None:
    """A state is used as the handler made it, not as a restore reads it"""
    swap(
        stack,
        decision,
        "_survived",
        lambda made: lambda behaviour, state, size: (state, made(behaviour, state, size)[1]),
    )


# --- the embedded log -----------------------------------------------------------------------------------------


@mutant("bridge/log/embedded/log.py")
def no_fence(stack: ExitStack) -> None:
    """A commit does not ask whether it is fenced."""
    swap(
        stack,
        schema,
        "FENCE",
        lambda sql: sql.replace("epoch = ?", "(epoch = ? OR 1)"),
    )


@mutant("bridge/log/embedded/log.py")
def no_epoch(stack: ExitStack) -> None:
    """Taking a shard does not raise its epoch."""
    swap(stack, schema, "TAKE", lambda sql: sql.replace("epoch = epoch + 1", "epoch = epoch"))


@mutant("bridge/log/embedded/log.py")
def torn(stack: ExitStack) -> None:
    """A commit that is interrupted leaves its offset without its records."""
    count = [0]

    def commit(original: Any) -> Any:
        def mutated(log: EmbeddedLog, transaction: Transaction) -> None:
            count[0] += 1
            kept = transaction.records[:1] if count[0] % 50 == 0 else transaction.records
            original(log, msgspec.structs.replace(transaction, records=kept))

        return mutated

    swap(stack, EmbeddedLog, "commit", commit)


@mutant("bridge/log/embedded/log.py", seeds=200)
def two_transactions(stack: ExitStack) -> None:
    """The records of a commit have a transaction of their own, behind that of its offset."""

    def commit(original: Any) -> Any:
        def mutated(log: EmbeddedLog, transaction: Transaction) -> None:
            original(log, msgspec.structs.replace(transaction, records=[]))
            if isinstance(log._events[-1], Committed):
                with log._store.write() as connection:
                    log._store.append(connection, grouped(transaction.records))

        return mutated

    swap(stack, EmbeddedLog, "commit", commit)


@mutant("bridge/log/embedded/log.py")
def waits_for_a_record(stack: ExitStack) -> None:
    """A replay is complete only with a record right below its end, where a marker may stand."""

    def replay_some(original: Any) -> Any:
        def mutated(log: EmbeddedLog) -> Any:
            for event in original(log):
                at_end = event.records and event.records[-1].offset + 1 >= ends[event.shard, event.topic]
                empty = ends[event.shard, event.topic] == 0
                yield msgspec.structs.replace(event, complete=bool(event.complete and (at_end or empty)))

        return mutated

    def replay(original: Any) -> Any:
        def mutated(log: EmbeddedLog, place: Any, topic: str, from_offset: int, to_offset: int) -> None:
            ends[place, topic] = to_offset if to_offset > from_offset else 0
            original(log, place, topic, from_offset, to_offset)

        return mutated

    ends: dict[Any, int] = {}
    swap(stack, EmbeddedLog, "_replay_some", replay_some)
    swap(stack, EmbeddedLog, "replay", replay)


@mutant("supervision/policy.py")
def never_spent(stack: ExitStack) -> None:
    """An entity is restarted although its budget is spent."""

    def judge(original: Any) -> Any:
        def mutated(*given: Any, **more: Any) -> Any:
            judgement = original(*given, **more)
            return msgspec.structs.replace(judgement, spent=False, delay_s=judgement.delay_s or 1.0)

        return mutated

    swap(stack, failure, "judge", judge)


@mutant("actors/shard/crash_guard.py")
def innocent(stack: ExitStack) -> None:
    """A command is quarantined one death too early."""

    def init(original: Any) -> Any:
        def mutated(self: Shard, config: Any, *more: Any) -> None:
            limits = msgspec.structs.replace(config.limits, deaths_max=max(1, config.limits.deaths_max - 1))
            original(self, msgspec.structs.replace(config, limits=limits), *more)

        return mutated

    swap(stack, Shard, "__init__", init)


@mutant("actors/shard/shard.py", seeds=120, scenario=MEMORY_SCENARIO)
def suspect_among_others(stack: ExitStack) -> None:
    """Others are handled in the same turn as a command that has killed, and as its dead letter"""

    def alone(original: Any) -> Any:
        def mutated(self: Shard, due: str | None) -> int:
            offset = int(original(self, due))
            guard = self._guard
            return offset if guard.is_careful and guard._concerns(offset) else -1

        return mutated

    swap(stack, Shard, "_alone", alone)


# --- supervision ----------------------------------------------------------------------------------------------


@mutant("supervision/restart.py")
def one_more(stack: ExitStack) -> None:
    """One restart more than is allowed."""
    swap(stack, policy, "exhausted", lambda _: lambda restarts, max_restarts: len(restarts) > max_restarts + 1)


@mutant("supervision/restart.py")
def one_less(stack: ExitStack) -> None:
    """One restart less than is allowed."""
    swap(stack, policy, "exhausted", lambda _: lambda restarts, max_restarts: len(restarts) >= max_restarts)


@mutant("supervision/machine.py")
def stale_is_heard(stack: ExitStack) -> None:
    """What an incarnation says is believed when it is over."""
    swap(stack, machine, "_is_current", lambda _: lambda tree, name, _incarnation: tree.child(name).incarnation > 0)


@mutant("supervision/strategy.py")
def all_at_once(stack: ExitStack) -> None:
    """Every sibling shares the fate of the one that failed."""
    swap(
        stack,
        machine,
        "affected",
        lambda original: lambda _, names, failed: original(Strategy.ALL_FOR_ONE, names, failed),
    )


# --- at least once --------------------------------------------------------------------------------------------


@mutant("actors/shard/shard.py", scenario=AT_LEAST_ONCE_SCENARIO)
def repeats_are_taken(stack: ExitStack) -> None:
    """A message that comes again is handled again."""
    swap(stack, Redelivery, "repeats", lambda original: lambda self, headers: original(self, headers) and False)


@mutant("bridge/nontransactional.py", scenario=AT_LEAST_ONCE_SCENARIO)
def the_seen_is_forgotten(stack: ExitStack) -> None:
    """What others have sent since it was written down is not read again."""
    swap(stack, NontransactionalRecovery, "see", lambda _: lambda _self, _record: None)


@mutant("bridge/nontransactional.py", seeds=400, scenario=AT_LEAST_ONCE_SCENARIO)
def torn_turns_count(stack: ExitStack) -> None:
    """A turn counts even if only a part of it is in the journal."""

    class Torn(CountingJournal):
        def _turn_from(self, first_seq: int) -> Placed | None:
            placed = self._found.get(first_seq)
            if placed is None or placed.next_offset >= 0:
                return None if placed is None else msgspec.structs.replace(placed, count=1)
            return msgspec.structs.replace(placed, count=1, next_offset=self._record.next)

    swap(stack, nontransactional, "CountingJournal", lambda _: Torn)


@mutant("bridge/codec.py", seeds=120, scenario=AT_LEAST_ONCE_SCENARIO)
def journal_first(stack: ExitStack) -> None:
    """The journal is appended before what its commands send."""

    def make(encode_nontransactional: Any) -> Any:
        def mutated(self: Codec, result: TurnResult) -> Append:
            made = encode_nontransactional(self, result)
            return msgspec.structs.replace(made, outputs=made.journal, journal=made.outputs)

        return mutated

    swap(stack, Codec, "encode_nontransactional", make)


@mutant("actors/shard/redelivery.py", scenario=AT_LEAST_ONCE_SCENARIO)
def failures_need_no_transaction(stack: ExitStack) -> None:
    """A turn in which something failed is appended without a transaction."""

    def make(end: Any) -> Any:
        def mutated(self: Redelivery, turn: Turn, *more: Any) -> Any:
            turn.incidents, kept = [], turn.incidents
            counts, turn.counts = turn.counts, Counts()
            try:
                return end(self, turn, *more)
            finally:
                turn.incidents, turn.counts = kept, counts

        return mutated

    swap(stack, Redelivery, "end_without_transaction", make)


# --- the table ------------------------------------------------------------------------------------------------


def faults() -> str:
    """Return the table of faults."""
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - fault", "     - what happens"]
    for kind, meaning in {**FAULTS, **PROJECTION_FAULTS}.items():
        lines += [f"   * - ``{kind}``", f"     - {meaning}"]
    return "\n".join(lines)


def table() -> str:
    """Find every mutant, and return the table of the seeds and rules that found them."""
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - mutant",
        "     - where",
        "     - seeds",
        "     - found by",
    ]
    for planted in MUTANTS:
        found = find(planted)
        assert found is not None, f"{planted.name}: not found within {planted.seeds} seeds"
        lines += [
            f"   * - {planted.name}",
            f"     - ``{planted.where}``",
            f"     - {found.seeds}",
            f"     - {found.rule}",
        ]
        sys.stderr.write(f"{planted.name}: seed {found.seeds}: {found.rule}: {found.detail[:200]}\n")
    return "\n".join(lines)


def write(tables: dict[str, str]) -> None:
    """Write tables into the documentation, each between its comments."""
    text = DOCS.read_text(encoding="utf-8")
    for name, made in tables.items():
        body = f".. {name}\n\n{made}\n\n.. /{name}\n"
        pattern = rf"^\.\. {name}\n.*?^\.\. /{name}\n"
        text = re.sub(pattern, lambda _, body=body: body, text, flags=re.DOTALL | re.MULTILINE)
    DOCS.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the tables. They are of the module with which the other mutants register, not of this program."""
    from tests.campaigns import mutants, scenarios  # noqa: PLC0415  they import this module

    mutants.write({"faults": mutants.faults(), "mutants": mutants.table(), "scenarios": scenarios.table()})


if __name__ == "__main__":
    main()
