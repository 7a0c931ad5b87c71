"""Who is killed for holding the write lock of an SQLite database: a projector that is stopped, and nobody else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from repertory.projections import holder, schema
from repertory.projections.database import Database
from repertory.projections.holder import HolderWatch
from repertory.supervision.process.proc import is_stopped, pid_start

pytestmark = pytest.mark.processes

DEADLINE_S = 60.0

#: Takes the lock once it is told to, and stops as SIGSTOP from outside would stop it.
HOLDER = """
import os, signal, sqlite3, sys
sys.stdin.readline()
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Give a database whose holders are looked at without a pause."""
    monkeypatch.setattr(holder, "_LOOK_S", 0.0)
    monkeypatch.setattr(holder, "STOPPED_S", 0.1)
    with closing(Database(sa.make_url(f"sqlite:///{tmp_path / 'p.db'}"))) as database:
        with database.transaction() as connection:
            schema.metadata.create_all(connection)
        yield database


def watched(database: Database, start: str | None, *, stops: bool = True) -> int | None:
    """Let a process hold the lock that is registered with a start, or not at all; return how it ended, None if not.

    ``start``: "own" is the true one. ``stops``: whether it is stopped; else it goes on with the lock.
    """
    program = HOLDER if stops else HOLDER.replace("os.kill(os.getpid(), signal.SIGSTOP)", "signal.pause()")
    watch = HolderWatch(database)
    watch.step()  # It registers itself.
    with subprocess.Popen([sys.executable, "-c", program, database.path], stdin=subprocess.PIPE) as process:
        try:
            if start is not None:
                own = pid_start(process.pid) if start == "own" else start
                with database.transaction() as connection:
                    connection.execute(schema.projectors.insert(), {"pid": process.pid, "start": own})
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
            deadline_s = time.monotonic() + DEADLINE_S
            while holder.writer_pid(database.path) != process.pid or is_stopped(process.pid) != stops:
                assert time.monotonic() < deadline_s
                assert process.poll() is None
            until_s = time.monotonic() + 5 * holder.STOPPED_S
            while time.monotonic() < until_s or (start == "own" and stops and process.poll() is None):
                assert time.monotonic() < deadline_s
                watch.step()
            return process.poll()
        finally:
            process.kill()


def test_a_projector_that_is_stopped_is_killed(database: Database) -> None:
    """The others go on: the lock is free."""
    assert watched(database, "own") == -signal.SIGKILL
    with database.transaction() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.projectors)).scalar_one() >= 1


@pytest.mark.parametrize("start", [None, "another boot/1"])
def test_no_other_process_is_killed(database: Database, start: str | None) -> None:
    """Neither a program that is no projector, nor one that has the pid of a projector that has ended."""
    assert watched(database, start) is None


def test_a_projector_that_works_is_left_alone(database: Database) -> None:
    """However long it holds the lock."""
    assert watched(database, "own", stops=False) is None
