"""The programs of a run: how each is started, what CPU it takes, and how far its group has come.

All are measured from outside and alike: a program reads the topic of its commands, commits its group's offsets, and
runs until SIGTERM. Its CPU is what the kernel accounts for its processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from benchmarks import job

_ROOT = Path(__file__).parents[1]
_STOP_TIMEOUT_S = 40.0
_ANSWER_TIMEOUT_S = 30.0
#: More than this, in cores, taken by others: the round is repeated.
FOREIGN_CORES_MAX = 0.3


class Program(NamedTuple):
    """One way to do the ledger job. ``commands`` returns the command line of each of its processes."""

    label: str
    #: Of brokers, the run's name and a directory to make and to keep state in.
    commands: Callable[[str, str, Path], Sequence[Sequence[str]]]
    environment: Mapping[str, str] = {}
    partitions: int = job.PARTITIONS


def repertory(
    label: str = "Repertory", workers: int = 1, node: str = "bench", partitions: int = job.PARTITIONS, **settings: str
) -> Program:
    """Return ours: one node with ``workers``; ``settings`` by their names."""

    def commands(brokers: str, _name: str, _directory: Path) -> list[list[str]]:
        run = [sys.executable, "-m", "repertory", "run", "benchmarks.job:system", "--log", f"kafka://{brokers}"]
        return [[*run, "--workers", str(workers), "--node", node]]

    environment = {f"REPERTORY_{name.upper()}": value for name, value in settings.items()}
    return Program(label, commands, environment, partitions)


def bare(label: str = "bare loop", processes: int = 1) -> Program:
    """Return the bare loop."""

    def commands(brokers: str, name: str, _directory: Path) -> list[list[str]]:
        return [[sys.executable, "-m", "benchmarks.bare", brokers, name]] * processes

    return Program(label, commands)


class Started:
    """A program that runs. Made by `started`."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], said: Path) -> None:
        self._processes, self._said = processes, said

    def check(self) -> None:
        """Raise RuntimeError with what it said last, if a process has ended."""
        for process in self._processes:
            if process.poll() is not None:
                said = self._said.read_text(encoding="utf-8", errors="replace")[-3000:]
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{said}")

    def tree(self) -> list[psutil.Process]:
        """Return its processes and theirs; those that started last come last."""
        found: list[psutil.Process] = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(process.pid)
                found += [root, *root.children(recursive=True)]
        return found

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has taken so far, with those of processes that have ended."""
        return sum(map(cpu_s_of, self.tree()))

    def stop(self) -> None:
        """SIGTERM, and wait."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def started(program: Program, brokers: str, name: str) -> Iterator[Started]:
    """Run a program; it is stopped at the end of the block."""
    own = {job.NAME: name, job.SHARDS: str(program.partitions), "PYTHONPATH": str(_ROOT)}
    environment = {**os.environ, **own, **program.environment}
    with tempfile.TemporaryDirectory(prefix="repertory-bench-") as folder:
        said, processes = Path(folder) / "said.log", []
        # If the measuring process is killed, its programs end.
        ends_with_us = [setpriv, "--pdeathsig", "TERM"] if (setpriv := shutil.which("setpriv")) else []
        for command in program.commands(brokers, name, Path(folder) / "state"):
            with said.open("ab") as log:
                made = subprocess.Popen(  # noqa: S603
                    [*ends_with_us, *command],
                    cwd=_ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            processes.append(made)
        running = Started(processes, said)
        try:
            yield running
        finally:
            running.stop()


def cpu_s_of(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of its children that have ended; 0 if it is gone."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0


class Load(NamedTuple):
    """CPU seconds so far: of a program, of the broker, and of all others but the measuring process."""

    at_s: float
    program_s: float
    broker_s: float
    foreign_s: float


def load(program: Started, broker: int) -> Load:
    """Return what was used until now."""
    busy = psutil.cpu_times()
    machine_s = sum(getattr(busy, name) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    program_s, broker_s = program.cpu_s(), cpu_s_of(psutil.Process(broker))
    own_s = cpu_s_of(psutil.Process())
    return Load(time.perf_counter(), program_s, broker_s, machine_s - program_s - broker_s - own_s)


_NOT_YET = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR
}  # fmt: skip


class Offsets:
    """The committed offsets of a run's group, on the topic of its commands.

    They are read by a consumer that does not join: in librdkafka 2.16 ``AdminClient.list_consumer_group_offsets`` was
    seen to end the process (SIGSEGV) while the coordinator of a new broker loads.
    """

    def __init__(self, brokers: str, name: str, partitions: int = job.PARTITIONS) -> None:
        # Else librdkafka asks again and again while a transaction of the group is open.
        isolation = {"isolation.level": "read_uncommitted", "enable.auto.commit": False}
        self._consumer = Consumer({"bootstrap.servers": brokers, "group.id": name, **isolation})
        self._wanted = [TopicPartition(job.commands_of(name), partition) for partition in range(partitions)]

    def read(self) -> list[int]:
        """Return the offset of each partition, 0 before its first commit."""
        try:
            found = self._consumer.committed(self._wanted, _ANSWER_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET:
                raise
            return [0] * len(self._wanted)
        return [max(0, each.offset) for each in sorted(found, key=lambda each: each.partition)]

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()
