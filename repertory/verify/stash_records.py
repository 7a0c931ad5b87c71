"""The stashed commands of one changelog: each record by itself, each after the one before it, and the budgets.

A command enters the stash behind others of its key, or because it failed; then it is restarted, each time with the next
attempt, until it is applied or parked; a parked one leaves it, or begins again, on the request of an operator alone.
Each restart is an entry of its key's budget, in the state record of the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from repertory.actors.shard.changelog import StashedRecord, StateRecord
from repertory.actors.wire import DecodeError
from repertory.bridge.changelog_codec import decode_stashed, stashed_offset
from repertory.bridge.log.record import Record
from repertory.verify.findings import Findings, Place, text


class StateEntry(NamedTuple):
    """A state record of one key; ``state`` None is a tombstone. ``number`` is its changelog number."""

    place: Place
    state: StateRecord | None
    seq: int
    version: int
    number: int

    @property
    def lives(self) -> bool:
        """Whether the record holds an entity, not its end."""
        return self.state is not None and self.state.snapshot is not None

    @property
    def restarts_ms(self) -> tuple[int, ...]:
        """The restarts of the key."""
        return () if self.state is None else self.state.restarts_ms


class _StashEntry(NamedTuple):
    """A record of one command in the stash, without the command; None is a tombstone."""

    number: int
    offset: int
    place: Place
    record: StashedRecord | None


class StashRecords:
    """The stashed commands of one shard. ``stashed`` are those of the end."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self.stashed: dict[int, StashedRecord] = {}
        #: Of each command that was ever stashed, as far as the topic still holds it: its last attempt, a hash of the
        #: command itself, and the place of its last record.
        self.attempts: dict[int, int] = {}
        self.digests: dict[int, int] = {}
        self.places: dict[int, Place] = {}
        self._keys: dict[int, str] = {}
        self._of_key: dict[str, list[_StashEntry]] = {}

    def take(self, record: Record, number: int) -> None:
        """Add the next record of a stashed command; ``number``: its changelog number."""
        wrong = self._findings.stashed.wrong
        self._findings.stashed.looked_at += 1
        try:
            offset = stashed_offset(record)
        except DecodeError:
            wrong(record, "has a key that does not end with an offset")
            return
        place = self.places[offset] = Place(record.topic, record.partition, record.offset, text(record.key))
        if record.value is None:
            self.stashed.pop(offset, None)
            if offset in self._keys:
                self._of_key[self._keys[offset]].append(_StashEntry(number, offset, place, None))
            return
        try:
            found = self.stashed[offset] = decode_stashed(record.value)
        except DecodeError as error:
            wrong(record, f"cannot be decoded: {error}")
            return
        self.attempts[offset] = found.attempt
        same = command_digest(found.key, found.value, found.headers, found.timestamp_ms)
        if self.digests.setdefault(offset, same) != same or self._keys.setdefault(offset, found.key) != found.key:
            wrong(record, "holds another command than the record before it")
        if flaw := _flaw(found):
            wrong(record, flaw)
        bare = msgspec.structs.replace(found, value=b"", headers=(), traceback="")
        self._of_key.setdefault(found.key, []).append(_StashEntry(number, offset, place, bare))

    # --- with the states --------------------------------------------------------------------------------------

    def settle(
        self, states: dict[str, list[StateEntry]], *, forgotten: Callable[[int], float] | None, is_complete: bool
    ) -> None:
        """Check each key's stash records and state records in the order in which they were written.

        ``is_complete``: compaction has deleted nothing. ``forgotten`` returns up to when (epoch, in ms) a shard has
        forgotten restarts before it wrote the record with a changelog number; None if that is not known.
        """
        for key in {*states, *self._of_key}:
            entries: list[StateEntry | _StashEntry] = [*states.get(key, ()), *self._of_key.get(key, ())]
            entries.sort(key=lambda entry: entry.number)
            self._history(entries, forgotten, is_complete=is_complete)

    def _history(
        self,
        entries: Iterable[StateEntry | _StashEntry],
        forgotten: Callable[[int], float] | None,
        *,
        is_complete: bool,
    ) -> None:
        queue: dict[int, StashedRecord] = {}
        spent: list[int] = []
        latest: _StashEntry | None = None  # Of the same transaction as the next state record.
        for entry in entries:
            if isinstance(entry, StateEntry):
                if is_complete:
                    self._counted(entry, queue)
                    self._restarted(entry, latest)
                latest = None
                if forgotten is not None:
                    self._budget(entry, spent, forgotten(entry.number))
                spent = [*entry.restarts_ms]
                continue
            latest, before = entry, queue.pop(entry.offset, None)
            if is_complete and not _follows(before, entry.record):
                self._findings.stashed.wrong(entry.place, f"follows {_shown(before)} as {_shown(entry.record)}")
            if before is not None and before.parked:
                spent = []  # An operator has acted on it.
            if entry.record is not None:
                queue[entry.offset] = entry.record
                if (at_ms := _restart_ms(entry.record)) is not None:
                    spent.append(at_ms)

    def _counted(self, entry: StateEntry, queue: dict[int, StashedRecord]) -> None:
        counted = (0, -1) if entry.state is None else (entry.state.stashed, entry.state.stashed_first)
        if counted != (len(queue), min(queue, default=-1)):
            self._findings.stashed.wrong(
                entry.place,
                f"counts {counted[0]} stashed commands from {counted[1]}, but {len(queue)} were stashed "
                f"from {min(queue, default=-1)}",
            )

    def _restarted(self, entry: StateEntry, latest: _StashEntry | None) -> None:
        """Check that a command that was restarted is due a delay after the last restart of its key."""
        if latest is None or (at_ms := _restart_ms(latest.record)) is None or entry.restarts_ms[-1:] in ((), (at_ms,)):
            return
        self._findings.stashed.wrong(
            latest.place, f"was restarted at {at_ms}, but its key's last restart is {entry.restarts_ms[-1]}"
        )

    def _budget(self, entry: StateEntry, spent: list[int], forgotten_ms: float) -> None:
        """Check that a budget lost no restart within its window, and got none that did not happen."""
        kept = [at_ms for at_ms in spent if at_ms >= forgotten_ms]
        if len(entry.restarts_ms) < len(kept):
            self._findings.states.wrong(
                entry.place, f"counts {len(entry.restarts_ms)} restarts, but the key was restarted at {kept}"
            )
        if len(entry.restarts_ms) > len(spent):
            self._findings.states.wrong(
                entry.place, f"counts the restarts {entry.restarts_ms}, but the key was restarted at {spent}"
            )


def command_digest(key: str, value: bytes | None, headers: object, timestamp_ms: int) -> int:
    """Return a hash of what the stash keeps of a command. It differs between processes."""
    return hash((key, value, headers, timestamp_ms))


def _restart_ms(record: StashedRecord | None) -> int | None:
    """Return when a stashed command was restarted, None if it was not."""
    is_restarted = record is not None and record.error and not record.parked
    return record.due_ms - record.delay_ms if record is not None and is_restarted else None


def _flaw(found: StashedRecord) -> str:
    """Return what no shard writes about a stashed command; "" if there is nothing."""
    waits = found.due_ms or found.delay_ms
    if found.parked and (waits or not found.error):
        return f"is parked, with a due time {found.due_ms} and the error {found.error!r:.100}"
    if not found.error and (waits or found.attempt != 1 or found.reason or found.traceback):
        return (
            f"has not failed, but has attempt {found.attempt}, due {found.due_ms}, and the reason {found.reason!r:.100}"
        )
    if found.error and not found.parked and (found.attempt < 2 or found.due_ms < found.delay_ms or not found.due_ms):
        return f"is restarted, with attempt {found.attempt} at {found.due_ms}, {found.delay_ms} ms later"
    return ""


def _follows(before: StashedRecord | None, after: StashedRecord | None) -> bool:
    """Whether a command can go from one stash record to the next; None: it is not in the stash."""
    if after is None:
        return before is not None
    if before is not None and before.parked:
        return not after.error  # Retried by an operator, as attempt 1.
    attempt = 1 if before is None else before.attempt
    if not after.error:
        return before is None
    return after.attempt == (attempt if after.parked else attempt + 1)


def _shown(record: StashedRecord | None) -> str:
    if record is None:
        return "no stashed command"
    kind = "parked" if record.parked else "restarted" if record.error else "waiting"
    return f"a {kind} one with attempt {record.attempt}"
