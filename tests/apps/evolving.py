"""An application in two builds, as ``KILLED_BUILD`` says: the second has a version more of everything."""

from __future__ import annotations

import os
from typing import Self

from repertory import (
    ActorSystem,
    Backoff,
    Command,
    Context,
    Entity,
    Event,
    Raw,
    Settings,
    command,
    event,
    restart,
    upcast,
)

BUILD = int(os.environ.get("KILLED_BUILD", "1"))


class Note(Command, version=BUILD):
    """Add up; in the second build with the label of the addition."""

    by: int
    if BUILD > 1:
        label: str


class Add(Command, version=BUILD):
    """Count ``by`` once."""

    by: int
    if BUILD > 1:
        label: str


class Added(Event, version=BUILD):
    """Counted."""

    by: int
    if BUILD > 1:
        label: str


@upcast("Note", to=2)
@upcast("Add", to=2)
@upcast("Added", to=2)
def labelled(raw: Raw) -> Raw:
    """Say that the first build wrote it."""
    return {**raw, "label": "old"}


class Tally(Entity, version=BUILD):
    """Stateful: what the counters told."""

    total: int = 0
    if BUILD > 1:
        new: int = 0

    @command
    def note(self, cmd: Note) -> Self:
        """Add up."""
        new = {} if BUILD == 1 else {"new": self.new + (cmd.label == "new")}
        return self.replace(total=self.total + cmd.by, **new)


class Counter(Entity, version=BUILD):
    """Journaled."""

    total: int = 0
    if BUILD > 1:
        new: int = 0

    @command
    def add(self, cmd: Add, ctx: Context) -> Added:
        """Count, and tell a tally."""
        label = {} if BUILD == 1 else {"label": cmd.label}
        ctx.tell(Tally.note, f"t-{cmd.by % 10}", Note(by=cmd.by, **label))
        return Added(by=cmd.by, **label)

    @event
    def added(self, evt: Added) -> Self:
        """Add up."""
        new = {} if BUILD == 1 else {"new": self.new + (evt.label == "new")}
        return self.replace(total=self.total + evt.by, **new)


@upcast("Tally", to=2)
@upcast("Counter", to=2)
def without_new(raw: Raw) -> Raw:
    """Begin to count the new ones: a state of the first build has none, as its history says."""
    return {**raw, "new": 0}


system = ActorSystem(
    os.environ.get("KILLED_NAME", "evolving"),
    settings=Settings(
        batch_records_max=20,
        snapshot_window_bytes_max=1,
        snapshot_window_records=50,
        session_timeout_s=float(os.environ.get("KILLED_SESSION_S", "6")),
        transaction_timeout_s=10,
        ping_timeout_s=15,
    ),
    workers=restart(max_restarts=1_000, within_s=60, backoff=Backoff(first_s=0.02, max_s=1)),
)
for entity in (Counter, Tally):
    system.host(entity, partitions=3)
