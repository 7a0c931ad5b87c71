"""Run seeds in several processes: each process runs every n-th seed. Results are returned in the order of the seeds."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import NoReturn

import msgspec

from repertory.simulation.runs import Result, Scenario


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def running(scenario: Scenario, seeds: Iterable[int], jobs: int) -> Iterator[Iterator[Result]]:
    """Provide the results of seeds, in order, run one after another in this process or in ``jobs`` processes.

    The processes are forked at once, so commands and invariants need no importable name, and the caller may start
    threads afterwards. They end with the context. Their results have no tape and no schedule unless a promise broke.

    The iterator raises what a run raises, and ChildProcessError if a process dies.
    """
    if jobs <= 1:
        yield map(scenario.run, seeds)
        return
    todo = tuple(seeds)
    started: list[_Job] = []
    try:
        with _uninterrupted():
            started.extend(_Job(scenario, todo[number::jobs]) for number in range(min(jobs, len(todo))))
        yield _merged(scenario, started)
    finally:
        for job in started:
            job.end()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C: while a process is forked, Python may drop the signal or lose track of the new process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Job:
    """One process and the pipe for its results. ``done`` is the number of results received."""

    def __init__(self, scenario: Scenario, seeds: Sequence[int]) -> None:
        self.seeds, self.done, self._again = seeds, 0, scenario.again
        self.received, sending = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=_run, args=(scenario, seeds, sending, os.getpid()), daemon=True
        )
        process.start()
        sending.close()
        self._process = process

    def died(self) -> ChildProcessError:
        """Return the error for a process that ended early."""
        self._process.join()
        return ChildProcessError(
            f"process {self._process.pid} of the simulation died (exit code {self._process.exitcode}) "
            f"while it ran seed {self.seeds[self.done]}: run that seed alone: {self._again(self.seeds[self.done])}"
        )

    def end(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.join()
        self.received.close()


def _merged(scenario: Scenario, jobs: Sequence[_Job]) -> Iterator[Result]:
    """Yield the results in the order of the seeds, so that the reported failure is always the first."""
    for job in itertools.chain.from_iterable(itertools.repeat(jobs)):
        if job.done == len(job.seeds):
            return
        try:
            found: Result | int = job.received.recv()
        except (EOFError, ConnectionError):
            raise job.died() from None
        job.done += 1
        yield _raised(scenario, found) if isinstance(found, int) else found


def _raised(scenario: Scenario, seed: int) -> NoReturn:
    """Repeat a run that raised in another process: the traceback is complete, and no exception need be picklable."""
    scenario.run(seed)
    raise AssertionError(
        f"seed {seed} raised in another process but not in this one: the system depends on more than its seed "
        f"(a clock, random numbers, the order of a set); remove that dependency; run it again: {scenario.again(seed)}"
    )


def _run(scenario: Scenario, seeds: Sequence[int], sending: Connection, parent_pid: int) -> None:
    """Run seeds in a child process, and send each result, or the seed of a run that raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles Ctrl-C.
    for seed in seeds:
        if os.getppid() != parent_pid:
            return
        found: Result | int
        try:
            result = scenario.run(seed)
            broken = result.violation is not None
            found = result if broken else msgspec.structs.replace(result, tape={}, schedule=())
        except BaseException:  # noqa: BLE001  whatever a user's commands or invariant raise
            found = seed
        with contextlib.suppress(BrokenPipeError):
            sending.send(found)
