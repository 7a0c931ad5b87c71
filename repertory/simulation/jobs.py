"""Seeds over several processes: each runs every n-th of them, and the results come back in the order of the seeds."""

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
    """Give the results of seeds: run one after another here, or in ``jobs`` processes. In their order.

    The processes are forked at once: so commands and invariants need no name, and the caller may start threads
    afterwards. They end with the context, whatever ends it. Their results have neither tape nor schedule, unless a
    promise broke.

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
    """Let Ctrl-C wait: while a process is forked Python may swallow it, or forget what was just started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Job:
    """One process and what it has said. ``done`` of its seeds have been heard of."""

    def __init__(self, scenario: Scenario, seeds: Sequence[int]) -> None:
        self.seeds, self.done = seeds, 0
        self.heard, tells = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=_run, args=(scenario, seeds, tells, os.getpid()), daemon=True
        )
        process.start()
        tells.close()
        self._process = process

    def died(self) -> ChildProcessError:
        """Return what to raise when nothing more will come."""
        self._process.join()
        return ChildProcessError(
            f"process {self._process.pid} of the simulation died (exit code {self._process.exitcode}) "
            f"while it ran seed {self.seeds[self.done]}: run that seed alone"
        )

    def end(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.join()
        self.heard.close()


def _merged(scenario: Scenario, jobs: Sequence[_Job]) -> Iterator[Result]:
    """Yield the results in the order of the seeds, so that the failure that is shown is always the first."""
    for job in itertools.chain.from_iterable(itertools.repeat(jobs)):
        if job.done == len(job.seeds):
            return
        try:
            said: Result | int = job.heard.recv()
        except (EOFError, ConnectionError):
            raise job.died() from None
        job.done += 1
        yield _raised(scenario, said) if isinstance(said, int) else said


def _raised(scenario: Scenario, seed: int) -> NoReturn:
    """Have a run raise here what it raised there: with a traceback that can be read, and nothing need be picklable."""
    scenario.run(seed)
    raise AssertionError(
        f"seed {seed} raised in another process, and not in this one: it depends on more than its seed"
    )


def _run(scenario: Scenario, seeds: Sequence[int], tells: Connection, parent_pid: int) -> None:
    """Run seeds in a process of their own; tell each result, or the seed of a run that raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on.
    for seed in seeds:
        if os.getppid() != parent_pid:
            return
        said: Result | int
        try:
            result = scenario.run(seed)
            broken = result.violation is not None
            said = result if broken else msgspec.structs.replace(result, tape={}, schedule=())
        except Exception:  # noqa: BLE001  whatever a user's commands or invariant raise
            said = seed
        with contextlib.suppress(BrokenPipeError):
            tells.send(said)
