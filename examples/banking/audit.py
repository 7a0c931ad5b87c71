"""The audit: what the log says of the bank's money and of each transfer, beside what `verify` says of the runtime.

All from committed records, in their order, of *all* runs on the log: an earlier run that was cut off is finished by
the next one, and its money counts as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from examples.banking.accounts import Account, Deposited, Open, Opened, Refunded, Withdrawn
from examples.banking.transfers import (
    StartTransfer,
    Transfer,
    TransferCompleted,
    TransferRefunded,
    TransferRefused,
    TransferStarted,
)
from repertory import ActorSystem, Message, commands_topic, partition_of
from repertory.verify import Check, Finding, Place, Reader, Record, Step, VerificationReport, verify

#: How a transfer ends, by the event that says so.
ENDS: dict[type[Message], str] = {
    TransferCompleted: "completed",
    TransferRefused: "refused",
    TransferRefunded: "refunded",
}


#: What the ledger checks.
MONEY = (
    "the balances are what was paid in",
    "no balance is negative after any event",
    "every transfer ended exactly once",
    "the money moved as the transfers ended",
)
#: Nothing waits, nothing is dead, nothing is unread: what a load that cannot fail must come to.
LEFT = "every command was applied or rejected"
_LEFT_FATES = frozenset({"not handled yet", "stashed", "parked", "dead-lettered"})


class Move(NamedTuple):
    """Money that one account gave (below 0) or took (above 0) for a transfer."""

    kind: str
    account: str
    cents: int


class Course:
    """One transfer as commands and journals tell it. ``asked_at`` is the offset of its first start command."""

    __slots__ = ("asked_at", "end", "ends", "moves", "started", "starts")

    def __init__(self) -> None:
        self.asked_at: int | None = None
        self.started: TransferStarted | None = None
        self.starts = 0
        self.end = ""
        self.ends = 0
        self.moves: tuple[Move, ...] = ()

    def expected_moves(self) -> Counter[Move]:
        """Return what must have moved, seen from how it ended."""
        if self.started is None or self.end == "refused":
            return Counter()
        source, target, cents = self.started.source, self.started.target, self.started.amount
        back = Move("deposited", target, cents) if self.end == "completed" else Move("refunded", source, cents)
        return Counter([Move("withdrawn", source, -cents), back])


def audit(
    reader: Reader, system: ActorSystem, seen: Callable[[int], None] = lambda _: None, *, decides: bool = True
) -> list[Check]:
    """Return the checks of everything that the bank left in a log; nothing may be running on it.

    ``seen`` is called with the number of records read since its last call, for a progress bar. ``decides``: decide
    each command again.
    """
    ledger = Ledger(system)
    report = verify(reader, system, decides=decides, seen=seen, on_command=ledger.command, on_step=ledger.step)
    return [*ledger.checks(), _left(system, report), *report.checks]


def _left(system: ActorSystem, report: VerificationReport) -> Check:
    """Check that each command was applied or rejected: this load has none that fails, and nobody is waiting."""
    finding = Finding(LEFT)
    for fate, count in report.fates.items():
        finding.looked_at += count
        if fate in _LEFT_FATES:
            finding.wrong(Place(f"{system.name}.*.commands", 0), f"{count:,} are {fate}")
    return finding.check(f"{finding.looked_at:,} commands")


class Ledger:
    """The bank's own books: fed with commands and events, asked for checks at the end."""

    def __init__(self, system: ActorSystem) -> None:
        self._sum, self._balance, self._ended, self._moved = map(Finding, MONEY)
        accounts, transfers = system.hosted[Account], system.hosted[Transfer]
        self._accounts_topic = commands_topic(system.name, accounts.behaviour.name)
        self._transfers_topic = commands_topic(system.name, transfers.behaviour.name)
        self._decode_account = accounts.behaviour.decoder.decode
        self._decode_transfer = transfers.behaviour.decoder.decode
        self._transfer_partitions = transfers.partitions
        self._courses: dict[str, Course] = {}
        #: By account: the first command that asks to open it, with the first payment, and what its journal says of it.
        self._openings: dict[str, tuple[Record, int]] = {}
        self._opened: dict[str, int] = {}
        self._paid_in = 0
        self._balances = 0
        self._steps = 0

    def command(self, record: Record) -> None:
        """Take in a command of any entity. Commands that cannot be decoded are dead letters, seen elsewhere."""
        if record.header("cause") is not None or record.key is None or record.value is None:
            return
        key = record.key.decode(errors="backslashreplace")
        try:
            if record.topic == self._transfers_topic:
                if isinstance(self._decode_transfer(record.value), StartTransfer):
                    course = self._course(key)
                    course.asked_at = record.offset if course.asked_at is None else course.asked_at
            elif isinstance(command := self._decode_account(record.value), Open):
                self._openings.setdefault(key, (record, command.initial))
        except ValueError:
            return

    def step(self, step: Step) -> None:
        """Take in an event of any entity."""
        if isinstance(step.after, Account) and isinstance(step.before, Account):
            self._account(step, step.before, step.after)
        else:
            self._transfer(step)

    def _account(self, step: Step, before: Account, after: Account) -> None:
        self._steps += 1
        self._balances += after.balance - before.balance
        if after.balance < 0:
            self._balance.wrong(step.record, f"the balance is {after.balance} after {type(step.event).__name__}")
        match step.event:
            case Opened(initial=initial):
                self._paid_in += initial
                self._opened.setdefault(step.key, initial)
            case Deposited(amount=amount, transfer=transfer):
                self._move(transfer, Move("deposited", step.key, amount))
            case Refunded(amount=amount, transfer=transfer):
                self._move(transfer, Move("refunded", step.key, amount))
            case Withdrawn(amount=amount, transfer=transfer):
                self._move(transfer, Move("withdrawn", step.key, -amount))

    def _move(self, transfer: str, move: Move) -> None:
        if transfer:
            self._course(transfer).moves += (move,)
        else:
            self._paid_in += move.cents

    def _transfer(self, step: Step) -> None:
        course = self._course(step.key)
        if isinstance(step.event, TransferStarted):
            course.starts += 1
            course.started = step.event
            if course.starts > 1:
                self._ended.wrong(step.record, "the transfer started a second time")
        elif (end := ENDS.get(type(step.event))) is not None:
            course.ends += 1
            if course.ends > 1:
                self._ended.wrong(step.record, f"the transfer had ended before, as {course.end}; now as {end}")
            course.end = end

    def _course(self, transfer: str) -> Course:
        return self._courses.setdefault(transfer, Course())

    # --- the end ----------------------------------------------------------------------------------------------

    def checks(self) -> list[Check]:
        """Return what the books say."""
        for transfer, course in self._courses.items():
            self._check_course(transfer, course)
        for key, (record, initial) in self._openings.items():
            if self._opened.get(key) != initial:
                self._sum.wrong(record, f"{initial} cents were paid in, the account began with {self._opened.get(key)}")
        if self._balances != self._paid_in:
            where = Place(self._accounts_topic, 0)
            self._sum.wrong(where, f"all accounts hold {self._balances:,} cents, {self._paid_in:,} were paid in")
        ends = Counter(course.end for course in self._courses.values())
        told = ", ".join(f"{ends[end]:,} {end}" for end in ENDS.values())
        moves = sum(len(course.moves) for course in self._courses.values())
        return [
            self._sum.check(f"{self._balances:,} cents in {len(self._opened):,} accounts"),
            self._balance.check(f"{self._steps:,} events of accounts"),
            self._ended.check(told),
            self._moved.check(f"{moves:,} movements"),
        ]

    def _check_course(self, transfer: str, course: Course) -> None:
        partition = partition_of(transfer.encode(), self._transfer_partitions)
        where = Place(self._transfers_topic, partition, -1 if course.asked_at is None else course.asked_at, transfer)
        if course.asked_at is None and course.starts:
            self._ended.wrong(where, "nobody asked for this transfer")
        elif course.starts == 0:
            finding = self._ended if course.asked_at is not None else self._moved
            finding.wrong(where, "the transfer never started" + (f", but moved {_say(course)}" if course.moves else ""))
        elif course.ends == 0:
            self._ended.wrong(where, "the transfer never ended")
        elif course.ends == 1 and Counter(course.moves) != course.expected_moves():
            self._moved.wrong(where, f"the transfer {course.end}, but what moved was {_say(course)}")


def _say(course: Course) -> str:
    if not course.moves:
        return "nothing"
    return ", ".join(f"{move.kind} {abs(move.cents)} at {move.account!r}" for move in course.moves)
