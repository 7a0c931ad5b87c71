"""The memory that outlives a worker names the command that it died in, once, to the next owner of the shard."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from repertory.actors.shard.crash_guard import COMMAND, SHARD
from repertory.bridge.node import in_flight
from repertory.bridge.node.in_flight import PID, InFlightCommands

pytestmark = pytest.mark.processes

Start = Callable[[int, int], int]


@pytest.fixture
def rows() -> InFlightCommands:
    """Return the memory of a node with two workers."""
    return InFlightCommands(2, "here/1")


@pytest.fixture
def start(rows: InFlightCommands) -> Iterator[Start]:
    """Give a function that forks a worker of a slot, which handles command 17 of a shard (-1: none) until killed."""
    pids: list[int] = []

    def start(slot: int, shard: int) -> int:
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            row = rows.enter(slot)
            if shard >= 0:
                row[SHARD], row[COMMAND] = shard, 17 + 1
            os.write(writing, b"!")
            signal.pause()
        pids.append(pid)
        os.read(reading, 1)
        os.close(reading)
        os.close(writing)
        return pid

    yield start
    for pid in pids:
        kill(pid)


def kill(pid: int) -> None:
    """Kill a child and wait for it, unless that was done."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_a_death_is_told_once_to_the_owner_of_its_shard(rows: InFlightCommands, start: Start) -> None:
    """The command of a live process is no death; that of a dead one is, for its shard alone, and only once."""
    pid = start(0, 3)
    assert rows.deaths(3) == []
    kill(pid)
    assert rows.deaths(4) == []
    assert rows.deaths(3) == [(17, pid)]
    assert rows.deaths(3) == []


def test_the_successor_keeps_its_predecessors_command(rows: InFlightCommands, start: Start) -> None:
    """A worker that takes the slot over, and handles commands itself, hides nothing of the one that died."""
    first = start(1, 3)
    kill(first)
    second = start(1, 5)
    assert rows.deaths(3) == [(17, first)]
    assert rows.deaths(5) == []
    kill(second)
    assert rows.deaths(5) == [(17, second)]


def test_a_process_that_died_between_two_commands_is_no_death(rows: InFlightCommands, start: Start) -> None:
    """An idle worker that is killed accuses no command."""
    kill(start(0, -1))
    assert [rows.deaths(shard) for shard in range(5)] == [[]] * 5


def test_a_pid_that_was_used_again_is_not_the_dead_process(rows: InFlightCommands, start: Start) -> None:
    """The death is told also if the pid belongs to another live process by now."""
    kill(start(0, 3))
    other = start(1, -1)
    rows._row(0)[PID] = other  # As if the kernel had given the pid to that process,
    rows._row(0)[in_flight._START] -= 1  # which began later: here both may have begun within one clock tick.
    assert rows.deaths(3) == [(17, other)]
