"""``QueryRunner``: answers the queries of a shard, each from the state after the last command that was applied.

A query reads one entity and leaves nothing behind: no record, no restart, no place in the stash. So it does not wait
behind its key's stash either, and it has no policy: one that raises is answered ``Undelivered``, at its first attempt.
Only a query that kills processes is kept as a dead letter, as a command is, so that an operator can look at it.
"""

from __future__ import annotations

from repertory.actors.context import OutputRefused
from repertory.actors.message import Envelope
from repertory.actors.shard.cells import Cell
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.crash_guard import CrashGuard
from repertory.actors.shard.decision import decide_query
from repertory.actors.shard.entities import Entities
from repertory.actors.shard.outputs import outputs_of
from repertory.actors.shard.placed import is_misplaced
from repertory.actors.shard.turn import Turn
from repertory.actors.shard.turn_result import Incident
from repertory.supervision.directive import Failure


class QueryRunner:
    """Mutable; owned by its shard, with which it shares the entities, the crash guard and the refused outputs."""

    __slots__ = ("_config", "_entities", "_guard", "_queries", "_refused", "envelope")

    def __init__(
        self, config: ShardConfig, entities: Entities, guard: CrashGuard, refused: dict[int | str, str]
    ) -> None:
        """``refused``: commands whose outputs the log refuses for good, by offset, and why; taken out when judged."""
        self._config, self._entities, self._guard, self._refused = config, entities, guard, refused
        self._queries = config.behaviour.queries
        #: The query that is being handled.
        self.envelope: Envelope | None = None

    def take(self, envelope: Envelope, turn: Turn) -> bool:
        """Answer a command if it is a query; return whether it is."""
        if type(envelope.message) not in self._queries:
            return False
        self._run(envelope, turn)
        return True

    def _run(self, envelope: Envelope, turn: Turn) -> None:
        """Answer one query. Without anybody to answer it is consumed, and its handler is not called."""
        config, behaviour = self._config, self._config.behaviour
        cell = self._entities.cells.get(envelope.key)
        if cell is None:
            if is_misplaced(config, envelope, turn):
                return
            cell = Cell(behaviour.initial(), behaviour.initial_data)
        if not self._guard.admits(envelope.offset):
            turn.quarantine(envelope, self._where(envelope), self._guard.deaths, is_stashed=False)
            return
        turn.counts.answered += 1
        if envelope.offset in self._refused:
            turn.refused.append(envelope.offset)
            self._failed(envelope, OutputRefused(self._refused.pop(envelope.offset)), turn)
            return
        if envelope.sender is None and envelope.retry is None:
            return
        self.envelope = envelope
        turn.has_late_answer |= envelope.key in self._entities.stash
        try:
            decision = decide_query(
                behaviour, cell.state, cell.data, envelope, config.directory,
                cause=f"{config.topic}/{config.id.partition}/{envelope.offset}", attempt=1,
                bytes_max=config.limits.output_bytes_max,
            )  # fmt: skip
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  an error of user code is the asker's answer
            if behaviour.has_mutable_fields:
                cell.state = behaviour.state_decode(cell.data)
            self._failed(envelope, error, turn)
        else:
            seq = self._entities.seq if behaviour.journaled else -1
            turn.outputs.extend(outputs_of(envelope, decision, seq))
            turn.bytes += len(decision.reply_data)
            if envelope.retry is not None:
                turn.end_retry(
                    envelope.retry, "rejected" if decision.rejected else "applied", reply=decision.reply_data
                )
        self.envelope = None

    def _failed(self, envelope: Envelope, error: Exception, turn: Turn) -> None:
        handler = self._queries[type(envelope.message)]
        doing = f"{handler.kind} {handler.owner.__name__}.{handler.name} handled it"
        failure = Failure.of(error, self._where(envelope), doing)
        then = "the asker is told" if envelope.sender is not None else "nobody asked"
        turn.leave_unanswered(
            envelope,
            Incident(failure.where, failure.error_type, failure.message, then, "unanswered", failure.traceback),
        )

    def _where(self, envelope: Envelope) -> str:
        return f"{self._config.id}@{envelope.offset} key {envelope.key!r}"
