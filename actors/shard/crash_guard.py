"""``CrashGuard``: finds a command that kills every process that handles it, and quarantines it.

Within a node, memory that outlives a process names the command that the process was handling
(``bridge.node.in_flight``). The next owner of the shard commits that death before it handles any command. After
``deaths_max`` deaths in a row the command is quarantined.

If a whole node goes down, this memory is lost, and each command of the batch under way may have been the cause. So the
next owner does not handle a batch. It commits an announcement of the next command, and then handles that command alone.
If it goes down as well, its successor knows the command and counts the death; after ``deaths_max`` deaths the command
is quarantined.

The cost is one transaction for each command, for at most ``careful_records_max`` commands and for those that were
stashed. Later commands of the batch under way are handled in batches of that size: if one of them takes the next node
down too, its successor finds it. The announcement of the next command is committed with the outputs of the one before
it. If an announced command is not handled after all (its shard fails, or has no room), the announcement is cleared, so
that the command is not blamed for a later death. A batch is counted in offsets: if markers of transactions lie between
commands, the batch may have ended beyond that count, and one more death is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from repertory.actors.shard.changelog import ShardRecord
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.stash import Stash
from repertory.actors.shard.turn_result import Incident

#: Indexes in the memory that outlives the process: the shard's number, and offset + 1 of its command (0: none).
SHARD, COMMAND = 1, 2


class CrashGuard:
    """Owned by its shard. It keeps the fields of the shard record about deaths, and sets them in each new record.

    After an unclean takeover, commands below an offset are handled alone, and so is each stashed command once.
    """

    __slots__ = (
        "_announced", "_below", "_config", "_in_flight", "_is_careful", "_quarantined", "_small_below", "_suspect",
        "_takes_over", "_untried", "deaths",
    )  # fmt: skip

    def __init__(self, config: ShardConfig, record: ShardRecord, end_offset: int) -> None:
        """``record`` is the last shard record; ``end_offset`` is the end of the commands at the takeover."""
        self._config, self._in_flight = config, config.in_flight
        self._suspect = record.suspect
        #: Number of processes in a row that died while they handled the suspect.
        self.deaths = record.deaths
        self._quarantined = record.suspect if record.deaths >= config.limits.deaths_max else -1
        self._announced = record.guarded
        #: Whether the last owner was another node and did not close the shard. An owner without a name has no memory.
        self._takes_over = record.owner not in ("", config.owner) and not record.closed
        # Commands that journal nothing leave no trace for up to a batch, in turns without a transaction
        # (``actors.shard.redelivery``): the command under way may have been in the batch after that.
        batches = 2 if record.nontransactional else 1
        alone, under_way = config.limits.small_batch_max * batches, config.limits.batch_records_max * batches
        self._below = min(end_offset, record.next + alone) if self._takes_over else record.guarded_below
        #: Commands below this offset are handled in small batches.
        self._small_below = record.next + under_way if self._takes_over else 0
        self._is_careful = self._takes_over or self._below > record.next
        self._untried: set[int] = set()

    @property
    def is_careful(self) -> bool:
        """Whether commands are announced in the log before they are handled."""
        return self._is_careful

    @property
    def has_alone(self) -> bool:
        """Whether some command must be handled alone."""
        return self._is_careful or self._suspect >= 0

    # --- one command ------------------------------------------------------------------------------------------

    def begin_turn(self) -> None:
        """Write the shard's number to the memory that outlives the process."""
        self._in_flight[SHARD] = self._config.number

    def admits(self, offset: int) -> bool:
        """Write the command that is handled now to that memory; False if it is quarantined and must not be handled.

        It stays there until the next one, or until the turn ends: a process that is killed between two handlers of a
        turn is taken to have died in the first.
        """
        if offset == self._quarantined:
            return False
        self._in_flight[COMMAND] = offset + 1
        return True

    def leave(self) -> None:
        """Clear the command in that memory."""
        self._in_flight[COMMAND] = 0

    # --- commands that are handled alone ----------------------------------------------------------------------

    def goes_alone(self, offset: int) -> bool:
        """Return whether a command is handled alone: the suspect, and after an unclean takeover many commands.

        The commands before a suspect are committed first, and its own result before any later command is handled:
        otherwise another command that kills the process, behind the suspect, would undo both again and again.
        """
        return offset == self._suspect or (self._is_careful and self._concerns(offset))

    def batch_max(self, next_offset: int) -> int:
        """Return how many commands the next turn may handle."""
        limits = self._config.limits
        return limits.small_batch_max if next_offset < self._small_below else limits.batch_records_max

    def must_announce(self, offset: int) -> bool:
        """Return whether a command that is handled alone must first be announced in a transaction of its own."""
        return self._is_careful and self._announced != offset and self._concerns(offset)

    def announce(self, offset: int) -> None:
        """Announce the next command, which is handled alone, in the next shard record; -1 for none."""
        self._announced = offset

    def _concerns(self, offset: int) -> bool:
        return offset < self._below or offset in self._untried

    # --- shard records ----------------------------------------------------------------------------------------

    def takeover(
        self, last: ShardRecord, deaths: Iterable[tuple[int, int]], next_offset: int, stash: Stash
    ) -> list[Incident]:
        """Count the deaths that the last owner could not commit; return incidents for the operator.

        ``deaths``: (offset, pid) of each process that died while it handled a command of this shard.
        """
        died = [(offset, f"process {pid}") for offset, pid in deaths]
        incidents: list[Incident] = []
        if self._takes_over:
            # A death of the suspect in our own memory is older than that node's ownership; it is taken as counted.
            died = [death for death in died if death[0] != last.suspect]
            died.append((last.guarded, f"node {last.owner}"))
            incidents += self._unclean_takeover(last, stash)
        incidents += [self._count(offset, who) for offset, who in died if _is_open(offset, next_offset, stash)]
        return incidents

    def _unclean_takeover(self, last: ShardRecord, stash: Stash) -> list[Incident]:
        self._untried = set(stash.retriable())
        count = max(0, self._below - last.next) + len(self._untried)
        reason = f"node {last.owner} did not close the shard: it went down, or the group reassigned the shard"
        then = f"{count} commands are announced first and handled one per transaction"
        return [Incident(str(self._config.id), "UncleanTakeover", reason, then, "unclean-takeover")] if count else []

    def _count(self, offset: int, who: str) -> Incident:
        """Count the death of a process (or node) during a command; at ``deaths_max`` the command is quarantined."""
        deaths_max = self._config.limits.deaths_max
        self.deaths = self.deaths + 1 if offset == self._suspect else 1
        self._suspect = offset
        is_over = self.deaths >= deaths_max
        self._quarantined = offset if is_over else -1
        then = "the command becomes a dead letter" if is_over else "the command is retried"
        reason = f"{who} died while it handled the command, death {self.deaths} of {deaths_max}"
        return Incident(f"{self._config.id}@{offset}", "ProcessDied", reason, then, "died")

    def end_turn(self, handled: int, next_offset: int, stash: Stash) -> None:
        """Record that the command ``handled`` was handled without a death; clear its announcement and old suspects."""
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
        """Return a shard record with this owner's fields about deaths. ``closed``: no command is under way any more."""
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
    """Return whether a command can still be handled."""
    return offset >= next_offset or stash.holds(offset)
