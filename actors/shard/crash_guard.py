"""``CrashGuard``: finds the command that kills whatever process handles it, and keeps it from killing for ever.

Within a node, memory that outlives a process says which command it was handling (``bridge.node.in_flight``). Whoever
owns the shard next commits that death before it handles anything; after ``deaths_max`` in a row the command is
quarantined.

When a whole node is gone, so is that memory, and any command of the batch that was under way may have been the one. So
its successor does not risk a batch: it writes down which command comes next, alone, and only then handles it. Should it
go down as well, the next one knows which it was, and counts; in the end the command is quarantined.

The cost is one transaction a command, for no more commands than a batch has, since none beyond can have been under way,
and for those that were stashed. The announcement of the next command leaves with what the one before it made; an
announced command that is not handled after all (its shard fails, or has no room) is taken back, so that nobody is
blamed for what comes later. A batch is counted in offsets: where markers of transactions lie between commands, its end
may be beyond, and one death more goes unseen.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from repertory.actors.shard.changelog import ShardRecord
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.stash import Stash
from repertory.actors.shard.turn_result import Incident

#: Places in the row of memory that outlives the process: the shard's number, and offset + 1 of its command (0: none).
SHARD, COMMAND = 1, 2


class CrashGuard:
    """Owned by its shard. It holds what the shard record says of deaths, and signs each shard record with it.

    After an unclean takeover commands below an offset go alone, and once each of those that were stashed.
    """

    __slots__ = (
        "_announced", "_below", "_config", "_in_flight", "_is_careful", "_quarantined", "_suspect", "_takes_over",
        "_untried", "deaths",
    )  # fmt: skip

    def __init__(self, config: ShardConfig, record: ShardRecord, end_offset: int) -> None:
        """``record`` is the last shard record; ``end_offset`` is the end of the commands at the takeover."""
        self._config, self._in_flight = config, config.in_flight
        self._suspect = record.suspect
        #: Processes in a row that died while they handled the suspect.
        self.deaths = record.deaths
        self._quarantined = record.suspect if record.deaths >= config.limits.deaths_max else -1
        self._announced = record.guarded
        #: Whether the last owner's node did not say that it left. An owner without a name keeps no memory.
        self._takes_over = record.owner not in ("", config.owner) and not record.closed
        # What journals nothing leaves no trace for up to a batch of turns without a transaction
        # (``actors.shard.redelivery``): the command under way may have been in the batch after.
        batch_max = config.limits.batch_records_max * (2 if record.nontransactional else 1)
        self._below = min(end_offset, record.next + batch_max) if self._takes_over else record.guarded_below
        self._is_careful = self._takes_over or self._below > record.next
        self._untried: set[int] = set()

    @property
    def is_careful(self) -> bool:
        """Whether commands are announced in the log before they are handled."""
        return self._is_careful

    @property
    def has_alone(self) -> bool:
        """Whether some command has to go alone."""
        return self._is_careful or self._suspect >= 0

    # --- one command ------------------------------------------------------------------------------------------

    def begin_turn(self) -> None:
        """Say in the memory that outlives the process whose commands are handled now."""
        self._in_flight[SHARD] = self._config.number

    def admits(self, offset: int) -> bool:
        """Say that a command is handled from now on; False if it is quarantined and must not be."""
        if offset == self._quarantined:
            return False
        self._in_flight[COMMAND] = offset + 1
        return True

    def leave(self) -> None:
        """Say that no command is handled any more."""
        self._in_flight[COMMAND] = 0

    # --- commands that go alone -------------------------------------------------------------------------------

    def goes_alone(self, offset: int) -> bool:
        """Tell whether a command goes alone: the one that a process died of, and after an unclean takeover many.

        What comes before a suspect is committed first, and what came of it before anything else is handled: another
        command that kills, behind it, would undo both again and again.
        """
        return offset == self._suspect or (self._is_careful and self._concerns(offset))

    def must_announce(self, offset: int) -> bool:
        """Tell whether a command that goes alone has to be announced in a transaction of its own first."""
        return self._is_careful and self._announced != offset and self._concerns(offset)

    def announce(self, offset: int) -> None:
        """Name in the next shard record the command that is handled next, alone; -1 for none."""
        self._announced = offset

    def _concerns(self, offset: int) -> bool:
        return offset < self._below or offset in self._untried

    # --- shard records ----------------------------------------------------------------------------------------

    def takeover(
        self, last: ShardRecord, deaths: Iterable[tuple[int, int]], next_offset: int, stash: Stash
    ) -> list[Incident]:
        """Count the deaths of which the last owner can no longer say anything; return what an operator should see.

        ``deaths``: (offset, pid) of each process that died while it handled a command of this shard.
        """
        died = [(offset, f"process {pid}") for offset, pid in deaths]
        incidents: list[Incident] = []
        if self._takes_over:
            # Ours is from before that node owned the shard: the one that is counted, for all that can be known.
            died = [death for death in died if death[0] != last.suspect]
            died.append((last.guarded, f"node {last.owner}"))
            incidents += self._unclean_takeover(last, stash)
        incidents += [self._count(offset, who) for offset, who in died if _is_open(offset, next_offset, stash)]
        return incidents

    def _unclean_takeover(self, last: ShardRecord, stash: Stash) -> list[Incident]:
        self._untried = set(stash.retriable())
        count = max(0, self._below - last.next) + len(self._untried)
        reason = f"node {last.owner} did not say that it left: it went down, or the group took the shard from it"
        then = f"{count} commands go one a transaction, marked first"
        return [Incident(str(self._config.id), "UncleanTakeover", reason, then, "unclean-takeover")] if count else []

    def _count(self, offset: int, who: str) -> Incident:
        """Count one more process (or node) that died within a command; at ``deaths_max`` the command is quarantined."""
        deaths_max = self._config.limits.deaths_max
        self.deaths = self.deaths + 1 if offset == self._suspect else 1
        self._suspect = offset
        is_over = self.deaths >= deaths_max
        self._quarantined = offset if is_over else -1
        then = "it becomes a dead letter" if is_over else "it is tried again"
        reason = f"{who} died while it handled the command, death {self.deaths} of {deaths_max}"
        return Incident(f"{self._config.id}@{offset}", "ProcessDied", reason, then, "died")

    def end_turn(self, handled: int, next_offset: int, stash: Stash) -> None:
        """Note that the command ``handled`` was handled and nobody died of it; forget what is over."""
        self._announced = -1
        if self._suspect >= 0 and not _is_open(self._suspect, next_offset, stash):
            self._suspect, self.deaths = -1, 0
        if not self._is_careful:
            return
        self._untried.discard(handled)
        if next_offset >= self._below:
            self._untried.intersection_update(stash.retriable())
            self._is_careful = bool(self._untried)

    def signed(self, record: ShardRecord, *, closed: bool = False) -> ShardRecord:
        """Return a shard record with what this owner knows of deaths. ``closed``: nothing is under way, it leaves."""
        is_below = self._is_careful and self._below > record.next
        return msgspec.structs.replace(
            record,
            suspect=self._suspect,
            deaths=self.deaths,
            owner=self._config.owner,
            closed=closed,
            guarded=self._announced,
            guarded_below=self._below if is_below else 0,
        )


def _is_open(offset: int, next_offset: int, stash: Stash) -> bool:
    """Tell whether a command may still be handled."""
    return offset >= next_offset or stash.holds(offset)
