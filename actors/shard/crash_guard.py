"""``CrashGuard``: after a whole node went down, commands go one a transaction, and each is marked in the log first.

Within a node, memory that outlives a process says which command killed it (``bridge.node.in_flight``). When the node is
gone, that is gone too, and any command of the batch that was under way may have been the one. So its successor does not
risk a batch: it writes down which command comes next, alone, and only then handles it. Should it go down as well, the
next one knows which it was, and counts; in the end the command is quarantined.

The cost is one transaction a command, for no more commands than a batch has, since none beyond can have been under way,
and for those that waited. The mark of the next command leaves with what the one before it made; a mark whose command is
not handled after all (its shard fails, or has no room) is taken back, so that nobody is blamed for what comes later.
A batch is counted in offsets: where markers of transactions lie between commands, its end may be beyond, and one death
more goes unseen.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from repertory.actors.shard.turn_result import Incident, ShardId, ShardRecord


class CrashGuard:
    """Owned by its shard. What is below the offset ``below`` goes alone; what waited at the takeover too, once."""

    __slots__ = ("_untried", "below", "takes_over")

    def __init__(self, record: ShardRecord, owner: str, end_offset: int, batch_max: int) -> None:
        #: Whether the last owner's node did not say that it left. An owner without a name keeps no marks.
        self.takes_over = record.owner not in ("", owner) and not record.closed
        self.below = min(end_offset, record.next + batch_max) if self.takes_over else record.guarded_below
        self._untried: set[int] = set()

    def begin(self, shard: ShardId, last: ShardRecord, stashed: Iterable[int]) -> list[Incident]:
        """Take over: note the commands that wait and may be tried, and say what is done, if anything is."""
        self._untried = set(stashed)
        count = max(0, self.below - last.next) + len(self._untried)
        reason = f"node {last.owner} did not say that it left: it went down, or the group took the shard from it"
        then = f"{count} commands go one a transaction, marked first"
        return [Incident(str(shard), "UncleanTakeover", reason, then, "unclean-takeover")] if count else []

    def concerns(self, offset: int) -> bool:
        """Tell whether a command goes alone."""
        return offset < self.below or offset in self._untried

    def tried(self, offset: int) -> None:
        """Note that a command was handled, and nobody died of it."""
        self._untried.discard(offset)

    def is_over(self, next_offset: int, stashed: Iterable[int]) -> bool:
        """Tell whether no command will go alone any more; ``waiting`` are those that may still be tried."""
        if next_offset < self.below:
            return False
        self._untried.intersection_update(stashed)
        return not self._untried


def crash_guard_for(record: ShardRecord, owner: str, end_offset: int, batch_max: int) -> CrashGuard | None:
    """Return the caution that a shard needs behind a record; None if it can go on as ever.

    What journals nothing leaves no trace for up to a batch of plain turns (``actors.shard.redelivery``): the one under
    way may have been in the batch after.
    """
    guard = CrashGuard(record, owner, end_offset, 2 * batch_max if record.nontransactional else batch_max)
    return guard if guard.takes_over or guard.below > record.next else None


def witnessed(
    shard: ShardId, record: ShardRecord, offset: int, who: str, deaths_max: int
) -> tuple[ShardRecord, Incident]:
    """Count one more process (or node) that died within a command; from ``deaths_max`` on it is to be quarantined."""
    deaths = record.deaths + 1 if offset == record.suspect else 1
    then = "it becomes a dead letter" if deaths >= deaths_max else "it is tried again"
    reason = f"{who} died while it handled the command, death {deaths} of {deaths_max}"
    incident = Incident(f"{shard}@{offset}", "ProcessDied", reason, then, "died")
    return msgspec.structs.replace(record, suspect=offset, deaths=deaths), incident
