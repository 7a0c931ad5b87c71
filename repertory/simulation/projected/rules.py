"""What must hold of a projection at the end of a run: each event once, in order, and rows as of an undisturbed run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from repertory.bridge.log.record import Record
from repertory.projections.db import Db
from repertory.projections.partition import DEATHS_MAX, DIED
from repertory.projections.progress import PlacedEvent, ProgressRow
from repertory.simulation.invariant import user_frames
from repertory.simulation.projected.database import MemoryDatabase
from repertory.simulation.projected.faults import is_caused
from repertory.simulation.projected.processes import FollowedProjection
from repertory.simulation.projecting import Journals
from repertory.simulation.unexplained import STOPPED, AllowedError, names_of
from repertory.simulation.virtual import Violation
from repertory.supervision.directive import qualified_name

#: The names of the rules.
ONCE = "each event that counts is projected once and in order"
ROWS = "the rows of a projection are those of one undisturbed run"
#: What users do whose projection breaks the second.
_ROWS_WHY = (
    "its handlers depend on more than the event, its place and the tables: state in the instance or its module, a "
    "clock, or random numbers; remove that dependency"
)
_ROWS_SHOWN = 3


def check_once(followed: FollowedProjection, journals: Journals) -> None:
    """Check that of each partition each event that counts was applied once, in order, up to its progress, or is parked.

    In order means that of the journal; where a key was parked, that of each key.
    """
    applied: dict[object, list[PlacedEvent]] = defaultdict(list)
    parked: dict[object, dict[int, PlacedEvent]] = defaultdict(dict)
    guilty: dict[object, set[int]] = defaultdict(set)
    for commit in followed.noted.commits:
        applied[commit.place] += commit.applied
        parked[commit.place].update((event.seq, event) for event in commit.parked)
        if commit.why:
            guilty[commit.place].update(event.seq for event in commit.parked)
    progress = followed.progress()
    for where, place in followed.places.items():
        row = progress.get(place, ProgressRow(0, 0))
        wrong = _wrong(applied[place], parked[place], guilty[place], row, journals[where])
        if wrong is not None:
            raise Violation(ONCE, f"{followed.bound}, {place}: {wrong}")


def _wrong(
    applied: Sequence[PlacedEvent],
    parked: Mapping[int, PlacedEvent],
    guilty: set[int],
    row: ProgressRow,
    journal: Sequence[Record],
) -> str | None:
    """Say what is wrong with one partition; None if nothing is. ``guilty``: the events for which a key was parked."""
    seqs = [event.seq for event in applied]
    for event in applied:
        if event.seq >= len(journal) or journal[event.seq].offset != event.offset:
            return f"the record at offset {event.offset}, which does not count, was applied as event {event.seq}"
    if doubled := [seq for seq, times in Counter(seqs).items() if times > 1]:
        return f"event {doubled[0]} was applied {seqs.count(doubled[0])} times"
    waiting = parked.keys() - {*seqs}
    if missing := [seq for seq in range(row.seq) if seq not in waiting.union(seqs)]:
        return f"event {missing[0]} was never applied, though its progress is {row.seq}"
    if len(waiting) != sum(row.parked.values()):
        return f"{sum(row.parked.values())} events are parked, and {len(waiting)} were and are not applied"
    firsts = {parked[seq].key: seq for seq in sorted(waiting, reverse=True)}
    if innocent := sorted({*firsts.values()} - guilty):
        return f"event {innocent[0]} is parked, though no event before it is"
    if row.failed < 0 and row.seq != len(journal):
        return f"its progress is {row.seq}, and {len(journal)} events count"
    if row.failed >= 0 and row.seq < len(journal) and row.failed > journal[row.seq].offset:
        return f"it has stopped at offset {row.failed}, behind event {row.seq}, which is next"
    by_key: dict[object, int] = {}
    for event in applied:
        order = event.key if parked else None
        if event.seq < by_key.get(order, 0):
            return f"event {event.seq} was applied after event {by_key[order]}"
        by_key[order] = event.seq
    return None


def check_rows(followed: FollowedProjection, journals: Journals) -> None:
    """Check that the rows are those of a new instance that takes the same events alone, in the same order.

    The order is that in which they were committed: there is none between partitions and entities.
    """
    bound = followed.bound
    with closing(MemoryDatabase()) as memory:
        with memory.transaction() as connection:
            bound.kind.metadata.create_all(connection, checkfirst=False)
            instance, db = bound.kind(), Db(connection, bound.tables)
            handlers = {name: each.of(instance) for name, each in bound.handlers.items()}
            for event, entity in _counted(followed, journals):
                try:
                    handlers[entity].handle(event, db)
                    db.flush()
                except Exception as error:
                    detail = f"{bound}: {event.record.place} was applied, and a new instance fails at it; {_ROWS_WHY}"
                    raise Violation(ROWS, f"{detail}\n{user_frames(error)}") from error
            wanted = [_rows(connection, table) for table in bound.tables]
        with followed.memory.transaction() as connection:
            found = [_rows(connection, table) for table in bound.tables]
    for table, has, should in zip(bound.tables, found, wanted, strict=True):
        if has != should:
            raise Violation(ROWS, _difference(followed, table, has, should))


def _counted(followed: FollowedProjection, journals: Journals) -> Iterator[tuple[PlacedEvent, str]]:
    """Yield what was applied, as the journals have it."""
    for commit in followed.noted.commits:
        journal = journals[commit.place.topic, commit.place.partition]
        for event in commit.applied:
            yield PlacedEvent(event.seq, event.key, journal[event.seq]), commit.place.entity


def _rows(connection: sa.Connection, table: sa.Table) -> list[tuple[object, ...]]:
    return sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)


def rows_of(followed: FollowedProjection, table: sa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table, by the names of its columns."""
    with followed.memory.transaction() as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def _difference(
    followed: FollowedProjection,
    table: sa.Table,
    has: Sequence[tuple[object, ...]],
    should: Sequence[tuple[object, ...]],
) -> str:
    names = table.c.keys()
    lines = [f"{followed.bound}, the table {table.name}:"]
    for what, some, others in (("has", has, should), ("should have", should, has)):
        left = Counter(some) - Counter(others)
        lines += [f"  {what} {dict(zip(names, row, strict=True))}" for row in list(left.elements())[:_ROWS_SHOWN]]
        if left.total() > _ROWS_SHOWN:
            lines.append(f"  and {left.total() - _ROWS_SHOWN} more rows")
    return "\n".join([*lines, _ROWS_WHY])


def check_explained(followed: FollowedProjection, allowed: Iterable[AllowedError]) -> None:
    """Check that nothing but a fault, or an error that is allowed, has stopped a partition or parked a key."""
    names: set[str] | None = None
    for commit in followed.noted.commits:
        # Who starts takes what the other one, which lives, was about to try for one more death.
        is_innocent = DIED in commit.why and followed.deaths < DEATHS_MAX - len(followed.processes) + 1
        if not commit.why or (is_caused(commit.why) and not is_innocent):
            continue
        names = names_of(allowed) if names is None else names
        if commit.error is not None and qualified_name(type(commit.error)) in names:
            followed.noted.probes["projection stopped or parked by an allowed error"] += 1
            continue
        if commit.failed >= 0:
            fate = f"has stopped at {commit.place}@{commit.failed}"
        else:
            (event, *_) = commit.parked
            fate = f"has parked the key {event.key!r} at {commit.place}@{event.offset}"
        name = "" if commit.error is None else qualified_name(type(commit.error))
        name = "" if commit.why.startswith(name) else f" ({name})"
        frames = "" if commit.error is None else f"\n{user_frames(commit.error)}"
        raise Violation(STOPPED, f"the projection {followed.bound} {fate}: {commit.why}{name}{frames}")
