"""The simulation: open accounts, send transfers and kill workers meanwhile, wait for the end, and audit the log."""

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
from examples.banking.load import AddressedCommand, Load
from examples.banking.running_bank import BankInProcess, BankInWorkers, RunningBank
from examples.banking.transfers import Transfer
from repertory import ActorSystem, Client, OutcomeUnknown, commands_topic
from repertory.verify import Check, Reader, records_total

TARGET = "examples.banking:system"

#: The commands of one append, and the attempts of an append whose outcome is unknown.
_CHUNK_RECORDS, _APPENDS_MAX = 200, 5
#: The transfers in progress are limited to a quarter of all transfers, within these bounds, so that workers are killed
#: while transfers are sent.
_AHEAD_MIN, _AHEAD_MAX = 200, 10_000
#: The prefix of a key, which leaves room for a number.
_RUN = r"[A-Za-z0-9.-]{1,40}"
_SETTLE_PAUSE_S = 0.05


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to simulate. ``run`` is the prefix of all keys and must be new to the log."""

    log: str
    run: str
    accounts: int
    transfers: int
    workers: int
    kills: int
    seed: int
    timeout_s: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run. ``gaps_s``: from a kill to the next commit of each shard of transfers that it stopped.

    ``refunded``: one of the transfers that were undone, by its key, with its steps; None if there is none.
    """

    ends: Mapping[str, int]
    seconds: float
    kills: int
    restarts: int
    replayed: int
    gaps_s: tuple[float, ...]
    refunded: tuple[str, Transfer] | None = None

    @property
    def per_second(self) -> float:
        """Ended transfers per second, from the first send to the last end."""
        return sum(self.ends.values()) / self.seconds if self.seconds else 0.0

    @property
    def gap_median_s(self) -> float | None:
        """The median of the gaps, None if there is none."""
        return median(self.gaps_s) if self.gaps_s else None


class Unfinished(Exception):
    """The timeout expired before all transfers had ended; the message has the number of those that had."""


class ProgressListener:
    """Receives the progress of a simulation. This base class ignores it."""

    def ended(self, transfers: int, kills: int) -> None:
        """The numbers of transfers that have ended and of kills so far."""

    def auditing(self, records: int) -> None:
        """An audit begins, of about this number of records."""

    def audited(self, records: int) -> None:
        """This number of further records is read."""

    def finished(self) -> None:
        """The audit is done. It may have read fewer records than announced, as transaction markers were counted."""


def simulate(system: ActorSystem, options: Options, progress: ProgressListener) -> tuple[Figures, list[Check]]:
    """Run the whole simulation; return its figures and the checks of the audit.

    Raises:
        ValueError: the options are invalid.
        Unfinished: not all transfers ended in time.
        BankDown: the bank stopped by itself.
        LogError: the log cannot be used.
    """
    if options.log == "memory:" and options.workers != 1:
        raise ValueError(
            f"memory: is the memory of one process: use --workers 1, not {options.workers}, or another log"
        )
    if not re.fullmatch(_RUN, options.run):
        raise ValueError(f"--run takes 1 to 40 letters, digits, dots and dashes, not {options.run!r}")
    if min(options.accounts, options.transfers, options.workers) < 1 or options.kills < 0:
        raise ValueError("--accounts, --transfers and --workers are 1 or more, --kills is 0 or more")
    with _start(system, options) as bank:
        figures = Run(system, options, bank, progress).play()
        bank.rest()
        progress.auditing(records_total(bank.reader, system))
        checks = audit(bank.reader, system, progress.audited)
        progress.finished()
        return figures, checks


def _start(system: ActorSystem, options: Options) -> RunningBank:
    random = Random(f"kills {options.seed}")  # noqa: S311  reproducible on purpose
    if options.log == "memory:":
        return BankInProcess(system, options.run, random)
    return BankInWorkers(system, TARGET, options.run, options.log, options.workers, random)


class Run:
    """One run of the load on a bank. At most one chunk of commands is in memory, and `_AHEAD_MAX` are in progress."""

    def __init__(self, system: ActorSystem, options: Options, bank: RunningBank, progress: ProgressListener) -> None:
        self._system, self._options, self._bank, self._progress = system, options, bank, progress
        self._deadline_s = time.monotonic() + options.timeout_s
        self._kills = 0

    def play(self) -> Figures:
        """Send all commands, kill workers meanwhile; wait until all commands are handled and who was killed is back."""
        options, bank = self._options, self._bank
        load = Load(options.run, accounts=options.accounts, transfers=options.transfers, seed=options.seed)
        openings, transfers = load.openings(), load.transfers()
        while _send(bank.client, openings):
            self._work()
        started_s, sent = time.monotonic(), 0
        ahead = min(max(options.transfers // 4, _AHEAD_MIN), _AHEAD_MAX)
        while bank.watch.ended < options.transfers or self._kills < options.kills or bank.restarts < self._kills:
            if sent - bank.watch.ended < ahead:
                sent += _send(bank.client, transfers)
            if self._kills < options.kills and bank.watch.ended >= self._next_kill():
                self._kills += bank.kill()
            self._work()
        self._settle()
        return Figures(
            ends=dict(bank.watch.ends),
            seconds=bank.watch.last_end_s - started_s,
            kills=self._kills,
            restarts=bank.restarts,
            replayed=bank.replayed,
            gaps_s=tuple(bank.watch.gaps_s),
            refunded=bank.watch.refunded,
        )

    def _next_kill(self) -> float:
        return (self._kills + 1) * self._options.transfers / (self._options.kills + 1)

    def _work(self) -> None:
        self._bank.work()
        self._progress.ended(self._bank.watch.ended, self._kills)
        if time.monotonic() > self._deadline_s:
            raise Unfinished(
                f"not finished after {self._options.timeout_s:g} s: {self._bank.watch.ended:,} of "
                f"{self._options.transfers:,} transfers have ended; see --timeout"
            )

    def _settle(self) -> None:
        """Wait until the remaining commands are handled, such as transfers that were sent twice."""
        while _is_left(self._bank.reader, self._system):
            pause_until_s = time.monotonic() + _SETTLE_PAUSE_S
            while time.monotonic() < pause_until_s:
                self._work()


def _send(client: Client, commands: Iterator[AddressedCommand]) -> int:
    """Append the next chunk and return its number of commands.

    An append whose outcome is unknown is repeated. This is safe: opening twice is refused, and a transfer starts once.
    """
    chunk = list(islice(commands, _CHUNK_RECORDS))
    for _ in range(_APPENDS_MAX - 1):
        with suppress(OutcomeUnknown):
            client.tell_all(chunk)
            return len(chunk)
    client.tell_all(chunk)
    return len(chunk)


def _is_left(reader: Reader, system: ActorSystem) -> bool:
    """Return whether a shard has committed commands that are not handled."""
    for hosted in system.hosted.values():
        topic = commands_topic(system.name, hosted.behaviour.name)
        for partition in range(hosted.partitions):
            committed = reader.committed(system.name, topic, partition) or 0
            if next(iter(reader.read(topic, partition, committed)), None) is not None:
                return True
    return False
