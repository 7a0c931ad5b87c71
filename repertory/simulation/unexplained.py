"""The keys that were parked, and the commands that were dead-lettered, although no injected fault explains it.

A parked key or a dead letter is *explained* if the simulator is its cause:

- the error is one of its own (``InjectedRestart`` and its like, which it raises before a handler is called, and
  OutputRefused),
- the command killed as many processes as it takes for a quarantine: handlers that the simulator killed,
- its operator dropped the command, which was parked before: what parked it is judged,
- it would have begun a saga, which was cancelled while it waited: what made it wait is judged, if that is a failure,
- the stash had no room for it: the bounds of a run are the simulator's,
- it waited behind a parked command, with ``restart(asked="answer")``: what parked that one is judged,
- it is one of the records that are not valid commands, which the simulator sent.

Everything else failed by itself and would do so without a fault: a handler raised, or an entity was sent something that
it cannot decode. It also counts if an operator retried it later, and it succeeded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import indent
from typing import TYPE_CHECKING

import msgspec

from repertory.actors.context import OutputRefused
from repertory.actors.control import CANCELLED
from repertory.actors.shard.failure import Quarantined
from repertory.bridge.changelog_codec import decode_stashed, is_stashed, stashed_offset
from repertory.bridge.log.record import Record
from repertory.bridge.system.failed import dead_letter
from repertory.bridge.topics import dead_letters_topic
from repertory.simulation.swarm import INJECTED
from repertory.simulation.virtual import Violation
from repertory.supervision.directive import qualified_name

if TYPE_CHECKING:
    from repertory.simulation.cluster import SimulatedCluster

#: The name of the rule, and what to do when it is broken.
RULE = "no key is parked and no command dead-lettered without a fault"
#: The same of projections.
STOPPED = "no projection stops or parks a key without a fault"
REMEDY = (
    "correct the handler or the workload; if this error is meant to happen, allow it: allowed_errors in the scenario "
    "or the call of simulate, or --allow-error"
)

#: An exception class, which stands for its subclasses too, or its name as a failure shows it: ``bank.accounts.Frozen``.
AllowedError = type[BaseException] | str

_KEYS_SHOWN = 20
#: What a traceback has that was not suppressed.
_FRAME = '  File "'
_INJECTED = frozenset(qualified_name(error) for error in (*INJECTED, OutputRefused))
#: Ends of a command that are the consequence of something else, which is judged, or of what the simulator did.
_CONSEQUENCES = frozenset(
    {CANCELLED, "Dropped", "NoRoom", "Parked", "Quarantined", "Revoked", qualified_name(Quarantined)}
)


class NotApplied(msgspec.Struct, frozen=True):
    """A command that was parked or dead-lettered; ``place`` is ``topic/partition/offset``."""

    place: str
    key: str
    error: str
    reason: str
    traceback: str
    is_parked: bool

    @property
    def is_explained(self) -> bool:
        """Whether its error alone shows that the simulator is the cause."""
        return self.error in _INJECTED or self.error in _CONSEQUENCES


def check_explained(
    cluster: SimulatedCluster, records: Mapping[tuple[str, int], Sequence[Record]], allowed: Iterable[AllowedError]
) -> None:
    """Count what was not applied among the probes. Raises Violation if neither a fault nor ``allowed`` explains it."""
    left: list[NotApplied] = []
    names: set[str] | None = None
    for found in not_applied(cluster, records):
        fate = "parked" if found.is_parked else "dead-lettered"
        if found.is_explained or found.place in cluster.clients.garbage_places:
            cluster.probes[f"{fate} by a fault"] += 1
            continue
        names = names_of(allowed) if names is None else names
        if found.error in names:
            cluster.probes[f"{fate} by an allowed error"] += 1
        else:
            left.append(found)
    if left:
        raise Violation(RULE, _described(left))


def not_applied(cluster: SimulatedCluster, records: Mapping[tuple[str, int], Sequence[Record]]) -> Iterator[NotApplied]:
    """Yield each command that was ever parked, then each dead letter."""
    for hosted in cluster.topology.entities.values():
        for partition in range(hosted.partitions):
            seen: set[bytes | None] = set()
            for record in filter(is_stashed, records[hosted.codec.state, partition]):
                if record.value is None or record.key in seen:
                    continue
                stashed = decode_stashed(record.value)
                if stashed.parked:
                    seen.add(record.key)
                    place = f"{hosted.codec.commands}/{partition}/{stashed_offset(record)}"
                    yield NotApplied(
                        place, stashed.key, stashed.error, stashed.reason, stashed.traceback, is_parked=True
                    )
    for record in records[dead_letters_topic(cluster.system.name), 0]:
        letter = dead_letter(record)
        place = f"{letter.source_topic}/{letter.source_partition}/{letter.source_offset}"
        yield NotApplied(place, letter.key or "", letter.error, letter.reason, letter.traceback, is_parked=False)


def is_lossless(cluster: SimulatedCluster, records: Mapping[tuple[str, int], Sequence[Record]]) -> bool:
    """Return whether every command was applied or rejected: no key is parked at the end, and none is dead-lettered."""
    if records[dead_letters_topic(cluster.system.name), 0]:
        return False
    stashes = [
        {record.key: record.value for record in filter(is_stashed, records[hosted.codec.state, partition])}
        for hosted in cluster.topology.entities.values()
        for partition in range(hosted.partitions)
    ]
    return all(value is None for stash in stashes for value in stash.values())


def names_of(allowed: Iterable[AllowedError]) -> set[str]:
    """Return the names of all errors that are allowed, those of subclasses too."""
    names: set[str] = set()
    left = list(allowed)
    while left:
        error = left.pop()
        if isinstance(error, str):
            names.add(error)
        elif (name := qualified_name(error)) not in names:
            names.add(name)
            left += error.__subclasses__()
    return names


def _described(found: Sequence[NotApplied]) -> str:
    """Describe the keys with the first error of each."""
    by_key: dict[tuple[str, str], list[NotApplied]] = defaultdict(list)
    for each in found:
        by_key[each.place.rsplit("/", 2)[0], each.key].append(each)
    parked = sum(each.is_parked for each in found)
    lines = [
        f"{number(parked, 'key was', 'keys were')} parked and {number(len(found) - parked, 'command')} "
        "dead-lettered, and no injected fault explains it:"
    ]
    for (_, key), those in list(by_key.items())[:_KEYS_SHOWN]:
        first = min(those, key=lambda each: int(each.place.rpartition("/")[2]))
        fate = "parked" if first.is_parked else "dead-lettered"
        more = f" (and {len(those) - 1} more of this key)" if len(those) > 1 else ""
        lines.append(f"  {first.place} key {key!r} {fate}: {first.error}: {first.reason}{more}")
        if len(lines) == 2 and _FRAME in first.traceback:
            lines.append(indent(first.traceback.rstrip(), "    "))
    if len(by_key) > _KEYS_SHOWN:
        lines.append(f"  and {len(by_key) - _KEYS_SHOWN} more keys")
    return "\n".join(lines)


def number(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
