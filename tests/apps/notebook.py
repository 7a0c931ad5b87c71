"""A notebook's user who presses Ctrl-C at any moment and runs the cell again: ``python -m tests.apps.notebook``.

Each round is one cell, and says on stdout when it begins; whoever started this program then sends SIGINT. The cell is
run until it ends by itself. At the end the states and the log are checked; the exit code is 0 if all is as it must be.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from itertools import pairwise
from random import Random
from types import FrameType
from typing import Self

from repertory import ActorSystem, Command, Entity, Event, Settings, command, event
from repertory.bridge.system.running import Running
from repertory.verify import verify

#: The cells. "settle" is the most frequent.
CELLS = ("settle", "settle", "settle", "tell", "start", "close", "crash")
COUNT = 5


class Add(Command):
    """Note a number."""

    n: int


class Added(Event):
    """A number was noted."""

    n: int


class Journaled(Entity):
    """The numbers in the order in which they came, by events."""

    numbers: tuple[int, ...] = ()

    @command
    def add(self, cmd: Add) -> Added:
        """Note a number."""
        return Added(n=cmd.n)

    @event
    def added(self, evt: Added) -> Self:
        """Append it."""
        return self.replace(numbers=(*self.numbers, evt.n))


class Stateful(Entity):
    """The numbers in the order in which they came, without events."""

    numbers: tuple[int, ...] = ()

    @command
    def add(self, cmd: Add) -> Self:
        """Append a number."""
        return self.replace(numbers=(*self.numbers, cmd.n))


class User:
    """Runs the cells, each until it has ended by itself."""

    def __init__(self, url: str, name: str, delivery: str) -> None:
        self._url = url
        self.system = ActorSystem(name, settings=Settings(delivery=delivery, batch_records_max=3))
        self.system.host(Journaled, partitions=2)
        self.system.host(Stateful, partitions=2)
        self._is_armed = self._is_signalled = False
        self.interrupted = 0
        #: The keys whose commands may have been sent several times.
        self.unsure: set[str] = set()
        signal.signal(signal.SIGINT, self._on_signal)
        self.running: Running = self.system.start(url)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_armed:
            self._is_signalled = True
            signal.default_int_handler(number, frame)

    def again(self, cell: Callable[[], None]) -> None:
        """Run a cell, and again after each Ctrl-C.

        The Kafka client's binding turns some KeyboardInterrupts into SystemError or TypeError (2.16.1).
        """
        while True:
            self._is_signalled = False
            try:
                self._is_armed = True
                cell()
                self._is_armed = False
            except (KeyboardInterrupt, SystemError, TypeError):
                self._is_armed = False
                if not self._is_signalled:
                    raise
                self.interrupted += 1
            else:
                return

    def cell(self, what: str, key: str) -> None:
        """Run one round."""
        running = self.running
        match what:
            case "settle":
                self.send(key)
                self.again(running.settle)
            case "tell":
                self.unsure.add(key)
                self.again(lambda: self.send(key))
            case "start":
                self.send(key)
                running.close()
                self.again(self._start)
            case "close":
                self.send(key)
                running.tick()
                self.again(running.close)
                self._start()
            case "crash":
                self.send(key)
                self.again(running.crash)
        self.running.settle()

    def send(self, key: str) -> None:
        """Send the numbers to a key of each entity."""
        self.running.client.tell_all(
            (handler, key, Add(n=n)) for handler in (Journaled.add, Stateful.add) for n in range(COUNT)
        )

    def _start(self) -> None:
        self.running = self.system.start(self._url)

    def complaint(self, key: str) -> str | None:
        """Return what is wrong with a key, None if nothing is."""
        for entity in (Journaled, Stateful):
            state = self.running.state(entity, key)
            numbers = list(state.numbers) if state else []
            if numbers == list(range(COUNT)) or (key in self.unsure and _is_repeated(numbers)):
                continue
            return f"{entity.__name__} {key}: {numbers}"
        return None


def _is_repeated(numbers: list[int]) -> bool:
    """Return whether the numbers were sent several times, all of them the last time, in order each time."""
    starts = [place for place, number in enumerate(numbers) if number == 0] + [len(numbers)]
    runs = [numbers[start:end] for start, end in pairwise(starts)]
    return all(run == list(range(len(run))) for run in runs) and bool(runs) and len(runs[-1]) == COUNT


def main() -> int:
    """Run the rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--delivery", default="exactly-once")
    options = parser.parse_args()
    user = User(options.url, options.name, options.delivery)
    random = Random(options.seed)  # noqa: S311 - a choice, not a secret
    user.running.settle()
    for number in range(options.rounds):
        what = random.choice(CELLS)
        sys.stdout.write(f"{what} {number}\n")
        sys.stdout.flush()
        user.cell(what, f"k-{number}")
    found = [complaint for number in range(options.rounds) if (complaint := user.complaint(f"k-{number}"))]
    report = verify(user.running.reader, user.system)
    found += [f"verify: {check.name}: {check.offenders}" for check in report.checks if not check.ok]
    user.running.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # While it exits, Python resets its own handlers to the default.
    sys.stdout.write(f"end {user.interrupted} {found}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
