"""Events of another build: what this one cannot read stops, or is parked, as the bytes that were written."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
import sqlalchemy as sa

from repertory import ActorSystem, Command, Entity, Event, Raw, command, event
from repertory.actors import evolution
from repertory.bridge.system.projected import OnError, Park, Retry
from repertory.projections import At, Db, Projection, insert, project, table
from repertory.projections.operate import ProjectionOperator
from repertory.projections.projection import BoundProjection
from tests.repertory.projections.running import rows_of


class Write(Command):
    """Write a line."""

    text: str


class OldNoted(Event, name="Noted"):
    """A line, as the older build writes it."""

    text: str


class OldDiary(Entity, name="Diary"):
    """The older build."""

    lines: int = 0

    @command
    def write(self, cmd: Write) -> OldNoted:
        return OldNoted(text=cmd.text)

    @event
    def noted(self, _evt: OldNoted) -> Self:
        return self.replace(lines=self.lines + 1)


class Noted(Event, version=2):
    """A line, as the newer build writes it."""

    words: tuple[str, ...]


class Blotted(Event):
    """What the older build does not know."""


class Blot(Command):
    """Make a blot."""


class Diary(Entity):
    """The newer build."""

    lines: int = 0

    @command
    def write(self, cmd: Write) -> Noted:
        return Noted(words=tuple(cmd.text.split()))

    @command
    def blot(self, _cmd: Blot) -> Blotted:
        return Blotted()

    @event
    def noted(self, _evt: Noted) -> Self:
        return self.replace(lines=self.lines + 1)

    @event
    def blotted(self, _evt: Blotted) -> Self:
        return self


class OldNotes(Projection, name="notes"):
    """The same tables in both builds."""

    rows = table(sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False), sa.Column("text", sa.Text))
    add = insert(rows)

    @project
    def noted(self, evt: OldNoted, at: At, db: Db) -> None:
        db.later(self.add, seq=at.seq, text=evt.text)


class Notes(OldNotes, name="notes"):
    """The newer build."""

    @project
    def noted(self, evt: Noted, at: At, db: Db) -> None:  # type: ignore[override]
        db.later(self.add, seq=at.seq, text=" ".join(evt.words))


@pytest.fixture
def name() -> str:
    """Return a name of its own for a system."""
    return f"diary-{uuid.uuid4().hex[:12]}"


def in_words(raw: Raw) -> Raw:
    """Upcast a line."""
    return {"words": raw["text"].split()}


@contextmanager
def newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the upcaster of the newer build, which the older one must not have."""
    with monkeypatch.context() as patch:
        patch.setitem(evolution._steps, ("Noted", 2), in_words)
        yield


def built(name: str, sql_url: str, kind: type[Projection], on_error: OnError) -> ActorSystem:
    """Return the build that a projection belongs to."""
    system, diary = ActorSystem(name), OldDiary if kind is OldNotes else Diary
    system.host(diary, partitions=1)
    system.project(kind, diary, to=sql_url, on_error=on_error)
    return system


def lines(sql_url: str) -> list[tuple[object, ...]]:
    """Return what is projected."""
    return rows_of(sql_url, "SELECT text FROM notes ORDER BY seq")


def test_an_older_build_stops_at_what_it_cannot_read_and_the_newer_goes_on(
    name: str, sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer version of an event is not passed over; a type that the older build lacks has no handler there."""
    log = f"sqlite:{tmp_path / 'log.db'}"
    old, new = (built(name, sql_url, kind, Retry(0)) for kind in (OldNotes, Notes))
    with old.start(log) as running:
        running.client.tell(OldDiary.write, "d", Write(text="one line"))
        running.settle()
    with newer(monkeypatch), new.start(log) as running:
        running._followings.close()
        running._followings._followings.clear()
        running.client.tell(Diary.blot, "d", Blot())
        running.client.tell(Diary.write, "d", Write(text="two words"))
        running.settle()
    with old.start(log) as running:
        running._followings.step()
        running.settle()
    assert lines(sql_url) == [("one line",)]
    ((error, seq),) = rows_of(sql_url, "SELECT error, seq FROM repertory_progress WHERE failed IS NOT NULL")
    assert "DecodeError" in str(error)
    assert seq == 2  # Behind the blot.
    with newer(monkeypatch), new.start(log) as running:
        bound = new.projections.of(Notes)
        assert isinstance(bound, BoundProjection)
        operator = ProjectionOperator(bound, running._backend)
        operator.retry(operator.place("diary", 0))
        operator.close()
        running.settle()
    assert lines(sql_url) == [("one line",), ("two words",)]


def test_a_corrected_upcaster_reads_what_was_parked(
    name: str, sql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is parked is where the bytes are, and not what an upcaster once made of them."""

    def broken(raw: Raw) -> Raw:
        raise KeyError("wrods")

    log = f"sqlite:{tmp_path / 'log.db'}"
    with built(name, sql_url, OldNotes, Park(times=0)).start(log) as running:
        running._followings.close()
        running._followings._followings.clear()
        for text in ("one line", "another"):
            running.client.tell(OldDiary.write, "d", Write(text=text))
        running.settle()
        monkeypatch.setitem(evolution._steps, ("Noted", 2), broken)
        new = built(name, sql_url, Notes, Park(times=0))
        follower = new.projections.of(Notes).follow(new, running._backend)
        while follower.step():
            pass
        assert [count for (count,) in rows_of(sql_url, "SELECT count(*) FROM repertory_parked")] == [2]
        monkeypatch.setitem(evolution._steps, ("Noted", 2), in_words)
        bound = new.projections.of(Notes)
        assert isinstance(bound, BoundProjection)
        operator = ProjectionOperator(bound, running._backend)
        assert operator.retry_key(operator.place("diary", 0), "d") == 2
        operator.close()
        follower.close()
    assert lines(sql_url) == [("one line",), ("another",)]
