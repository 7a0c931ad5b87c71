"""The simulation: open accounts, send transfers, kill workers meanwhile, wait for the end, and audit the log."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from random import Random
from statistics import median

import msgspec

from examples.banking.audit import audit
from examples.banking.load import Load, Told
from examples.banking.stage import InProcess, Stage, Workers
from repertory import ActorSystem, Client, OutcomeUnknown, commands_topic
from repertory.verify import Check, Reader, records_total

TARGET = "examples.banking:system"

#: Commands of one append, and how often an append is tried whose outcome is unknown.
_CHUNK_RECORDS, _APPENDS_MAX = 200, 5
#: At most a quarter of the transfers, and at most so many, are sent ahead of those that have ended: so the sending
#: lasts while workers die.
_AHEAD_MIN, _AHEAD_MAX = 200, 10_000
#: What a key can begin with, leaving room for a number.
_RUN = r"[A-Za-z0-9.-]{1,40}"
_SETTLE_PAUSE_S = 0.05


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to simulate. ``run`` begins every key and must be new to the log."""

    log: str
    run: str
    accounts: int
    transfers: int
    workers: int
    kills: int
    seed: int
    timeout_s: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did. ``gaps_s``: from a kill to the next commit, for each shard of transfers that it stopped."""

    ends: Mapping[str, int]
    seconds: float
    kills: int
    restarts: int
    replayed: int
    gaps_s: tuple[float, ...]

    @property
    def per_second(self) -> float:
        """Transfers that ended in a second, from the first that was sent to the last end."""
        return sum(self.ends.values()) / self.seconds if self.seconds else 0.0

    @property
    def gap_median_s(self) -> float | None:
        """The median of the gaps, None where there was none."""
        return median(self.gaps_s) if self.gaps_s else None


class Unfinished(Exception):
    """The time was over before the work was; the message says how far it came."""


class Show:
    """Is told how far a simulation is; this one shows nothing."""

    def ended(self, transfers: int, kills: int) -> None:
        """So many transfers have ended, so many kills are done."""

    def auditing(self, records: int) -> None:
        """An audit of about so many records begins."""

    def audited(self, records: int) -> None:
        """So many more records are read."""

    def finished(self) -> None:
        """The audit is done; it may have read less than expected, as transaction markers are no records."""


def simulate(system: ActorSystem, options: Options, show: Show) -> tuple[Figures, list[Check]]:
    """Run the whole simulation and return its figures and what the audit found.

    Raises:
        ValueError: options that do not go together.
        Unfinished: not all transfers ended in time.
        BankDown: the bank ended by itself.
        LogError: see ``bridge.log.connect``, ``Backend.ensure`` and ``Client.tell``.
    """
    if options.log == "memory:" and options.workers != 1:
        raise ValueError(f"memory: lives in one process: --workers is 1 there, not {options.workers}")
    if not re.fullmatch(_RUN, options.run):
        raise ValueError(f"--run takes up to 40 letters, digits, dots and dashes, not {options.run!r}")
    if min(options.accounts, options.transfers, options.workers) < 1 or options.kills < 0:
        raise ValueError("a simulation has accounts, transfers and workers, and no kills below 0")
    with _stage(system, options) as stage:
        figures = Run(system, options, stage, show).play()
        stage.rest()
        show.auditing(records_total(stage.reader, system))
        checks = audit(stage.reader, system, show.audited)
        show.finished()
        return figures, checks


def _stage(system: ActorSystem, options: Options) -> Stage:
    random = Random(f"kills {options.seed}")  # noqa: S311  reproducible on purpose
    if options.log == "memory:":
        return InProcess(system, options.run, random)
    return Workers(system, TARGET, options.run, options.log, options.workers, random)


class Run:
    """One run of the load on a stage. Bounded: a chunk of commands is in memory, and `_AHEAD_MAX` in the log."""

    def __init__(self, system: ActorSystem, options: Options, stage: Stage, show: Show) -> None:
        self._system, self._options, self._stage, self._show = system, options, stage, show
        self._deadline_s = time.monotonic() + options.timeout_s
        self._kills = 0

    def play(self) -> Figures:
        """Send everything, kill meanwhile, wait until nothing is left to do."""
        options, stage = self._options, self._stage
        load = Load(options.run, accounts=options.accounts, transfers=options.transfers, seed=options.seed)
        openings, transfers = load.openings(), load.transfers()
        while _send(stage.client, openings):
            self._work()
        started_s, sent = time.monotonic(), 0
        ahead = min(max(options.transfers // 4, _AHEAD_MIN), _AHEAD_MAX)
        while stage.watch.ended < options.transfers or self._kills < options.kills:
            if sent - stage.watch.ended < ahead:
                sent += _send(stage.client, transfers)
            if self._kills < options.kills and stage.watch.ended >= self._next_kill():
                self._kills += stage.kill()
            self._work()
        self._settle()
        return Figures(
            ends=dict(stage.watch.ends),
            seconds=stage.watch.last_end_s - started_s,
            kills=self._kills,
            restarts=stage.restarts,
            replayed=stage.replayed,
            gaps_s=tuple(stage.watch.gaps_s),
        )

    def _next_kill(self) -> float:
        return (self._kills + 1) * self._options.transfers / (self._options.kills + 1)

    def _work(self) -> None:
        self._stage.work()
        self._show.ended(self._stage.watch.ended, self._kills)
        if time.monotonic() > self._deadline_s:
            raise Unfinished(
                f"not finished after {self._options.timeout_s:g} s: {self._stage.watch.ended:,} of "
                f"{self._options.transfers:,} transfers have ended; see --timeout"
            )

    def _settle(self) -> None:
        """Wait until the commands are handled that no transfer waits for, as those that were sent twice."""
        while _is_left(self._stage.reader, self._system):
            pause_until_s = time.monotonic() + _SETTLE_PAUSE_S
            while time.monotonic() < pause_until_s:
                self._work()


def _send(client: Client, commands: Iterator[Told]) -> int:
    """Append the next chunk and return how many commands it had.

    An append whose outcome is unknown is done again: opening twice is refused, and a transfer starts once.
    """
    chunk = list(islice(commands, _CHUNK_RECORDS))
    for _ in range(_APPENDS_MAX - 1):
        with suppress(OutcomeUnknown):
            client.tell_all(chunk)
            return len(chunk)
    client.tell_all(chunk)
    return len(chunk)


def _is_left(reader: Reader, system: ActorSystem) -> bool:
    """Tell whether there is a committed command at or above its shard's offset."""
    for hosted in system.hosted.values():
        topic = commands_topic(system.name, hosted.behaviour.name)
        for partition in range(hosted.partitions):
            committed = reader.committed(system.name, topic, partition) or 0
            if next(iter(reader.read(topic, partition, committed)), None) is not None:
                return True
    return False
