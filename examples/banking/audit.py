"""The audit: checks the bank's money and each transfer in the log, in addition to the checks of `verify`.

It reads the committed records of *all* runs on the log, in order: a run that was interrupted is completed by the next
one, and its money counts as well. What retention has deleted cannot be checked: each check counts what it had to leave
out, and checks the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from examples.banking.accounts import Account, Deposited, Open, Opened, Refunded, Withdrawn
from examples.banking.transfers import StartTransfer, Transfer
from repertory import ActorSystem, commands_topic, events_topic, partition_of
from repertory.verify import Check, Finding, Place, Reader, Record, Step, VerificationReport, verify

#: How a transfer ends: the target has the money; it never left the source; the source has it back.
ENDS = ("completed", "refused", "refunded")


#: The checks of the ledger.
MONEY = (
    "the balances are what was paid in",
    "no balance is negative after any event",
    "every transfer ended exactly once",
    "the money moved as the transfers ended",
)
#: The check that no command is unhandled, stashed, parked or dead-lettered: no command of this load fails.
LEFT = "every command was applied or rejected"
_LEFT_FATES = frozenset({"not handled yet", "stashed", "parked", "dead-lettered"})


class Move(NamedTuple):
    """The money that an account paid (below 0) or received (above 0) for a transfer."""

    kind: str
    account: str
    cents: int


def is_over(transfer: Transfer) -> bool:
    """Whether nothing is left to do: what was to be undone is."""
    return transfer.progress.phase == "over"


def end_of(transfer: Transfer) -> str:
    """Return how a transfer ends that has its outcome, from its recorded steps."""
    progress = transfer.progress
    if not progress.is_rejected:
        return "completed"
    return "refunded" if progress.steps and progress.steps[0].was_applied else "refused"


def holds_money(transfer: Transfer) -> bool:
    """Whether the money has left the source, and neither account has it: the transfer holds it."""
    withdrawn, deposited = (*transfer.progress.steps, None, None)[:2]
    if withdrawn is None or not withdrawn.was_applied or withdrawn.undone:
        return False
    return deposited is None or not deposited.was_applied


class TransferHistory:
    """One transfer, from commands and journals. ``asked_at`` is the offset of its first start command.

    ``cause`` is the offset of the command that its start names.
    """

    __slots__ = ("asked_at", "cause", "end", "ends", "holds", "moves", "started", "starts")

    def __init__(self) -> None:
        self.asked_at: int | None = None
        self.cause = -1
        self.started: StartTransfer | None = None
        self.holds = False
        self.starts = 0
        self.end = ""
        self.ends = 0
        self.moves: tuple[Move, ...] = ()

    def expected_moves(self) -> Counter[Move]:
        """Return the movements that follow from how the transfer ended."""
        if self.started is None or self.end == "refused":
            return Counter()
        source, target, cents = self.started.source, self.started.target, self.started.amount
        back = Move("deposited", target, cents) if self.end == "completed" else Move("refunded", source, cents)
        return Counter([Move("withdrawn", source, -cents), back])


def audit(
    reader: Reader, system: ActorSystem, seen: Callable[[int], None] = lambda _: None, *, decides: bool = True
) -> list[Check]:
    """Check all records of the bank in a log. No node of the bank may be running.

    ``seen`` is called with the number of records read since its last call, for a progress bar. ``decides``: decide
    each command again.
    """
    ledger = Ledger(reader, system)
    report = verify(reader, system, decides=decides, seen=seen, on_command=ledger.command, on_step=ledger.step)
    return [*ledger.checks(), _left(system, report), *report.checks]


def _left(system: ActorSystem, report: VerificationReport) -> Check:
    """Check that each command was applied or rejected: no command of this load fails."""
    finding = Finding(LEFT)
    for fate, count in report.fates.items():
        finding.looked_at += count
        if fate in _LEFT_FATES:
            finding.wrong(Place(f"{system.name}.*.commands", 0), f"{count:,} are {fate}")
    return finding.check(f"{finding.looked_at:,} commands")


class EntityTopics(NamedTuple):
    """The partitions of one entity, and where their commands and events begin since retention."""

    commands: str
    partitions: int
    first_commands: tuple[int, ...]
    first_events: tuple[int, ...]

    @classmethod
    def of(cls, reader: Reader, system: ActorSystem, entity: type[Account | Transfer]) -> EntityTopics:
        """Read where the topics begin."""
        hosted = system.hosted[entity]
        topics = commands_topic(system.name, hosted.behaviour.name), events_topic(system.name, hosted.behaviour.name)
        commands, events = (
            tuple(reader.bounds(topic, partition)[0] for partition in range(hosted.partitions)) for topic in topics
        )
        return cls(topics[0], hosted.partitions, commands, events)

    def partition(self, key: str) -> int:
        """Return the partition of a key."""
        return partition_of(key.encode(), self.partitions)

    def has_all_events(self, key: str) -> bool:
        """Whether no event of a key can have been deleted."""
        return self.first_events[self.partition(key)] == 0


class Ledger:
    """Collects the commands and events of the bank, and returns its checks at the end."""

    def __init__(self, reader: Reader, system: ActorSystem) -> None:
        self._sum, self._balance, self._ended, self._moved = map(Finding, MONEY)
        self._accounts = EntityTopics.of(reader, system, Account)
        self._transfers = EntityTopics.of(reader, system, Transfer)
        self._decode_account = system.hosted[Account].behaviour.decoder.decode
        self._decode_transfer = system.hosted[Transfer].behaviour.decoder.decode
        self._histories: dict[str, TransferHistory] = {}
        #: By account: the first command that opens it, with the first payment; and the first payment in its journal.
        self._openings: dict[str, tuple[Record, int]] = {}
        self._opened: dict[str, int] = {}
        self._paid_in = 0
        self._balances = 0
        self._steps = 0

    def command(self, record: Record) -> None:
        """Add a command of any entity. Commands that cannot be decoded are dead letters, which `verify` checks."""
        if record.key is None or record.value is None:
            return
        key = record.key.decode(errors="backslashreplace")
        try:
            if record.topic == self._transfers.commands:
                if isinstance(self._decode_transfer(record.value), StartTransfer):
                    history = self._history(key)
                    history.asked_at = record.offset if history.asked_at is None else history.asked_at
            elif isinstance(command := self._decode_account(record.value), Open):
                self._openings.setdefault(key, (record, command.initial))
        except ValueError:
            return

    def step(self, step: Step) -> None:
        """Add an event of any entity."""
        if isinstance(step.after, Account) and isinstance(step.before, Account):
            self._account(step, step.before, step.after)
        elif isinstance(step.after, Transfer) and isinstance(step.before, Transfer):
            self._transfer(step, step.before, step.after)

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
            self._history(transfer).moves += (move,)
        else:
            self._paid_in += move.cents

    def _transfer(self, step: Step, before: Transfer, after: Transfer) -> None:
        history = self._history(step.key)
        history.holds = holds_money(after)
        if before.progress.phase == "new":
            started = self._decode_transfer(after.progress.command)
            assert isinstance(started, StartTransfer), started
            history.starts += 1
            history.started, history.cause = started, _command_of(step.record)
            if history.starts > 1:
                self._ended.wrong(step.record, "the transfer started a second time")
        if is_over(after):
            history.ends += 1
            if history.ends > 1:
                self._ended.wrong(step.record, f"the transfer had ended before, as {history.end}")
            else:
                history.end = end_of(before)

    def _history(self, transfer: str) -> TransferHistory:
        return self._histories.setdefault(transfer, TransferHistory())

    # --- checks -----------------------------------------------------------------------------------------------

    def checks(self) -> list[Check]:
        """Return the checks of the ledger."""
        for transfer, history in self._histories.items():
            self._check_transfer(transfer, history)
        for key, (record, initial) in self._openings.items():
            self._check_opening(key, record, initial)
        moved = 0
        if any(self._accounts.first_events):  # The other side of some movements was deleted: the rest is no zero sum.
            self._sum.unverifiable += 1
            moved = sum(move.cents for history in self._histories.values() for move in history.moves)
        held = sum(each.started.amount for each in self._histories.values() if each.started and each.holds)
        if self._balances + held != self._paid_in + moved:
            where = Place(self._accounts.commands, 0)
            in_flight = f" and transfers {held:,}" if held else ""
            found = f"all accounts hold {self._balances:,} cents{in_flight}, but {self._paid_in:,} were paid in"
            self._sum.wrong(where, found)
        ends = Counter(history.end for history in self._histories.values())
        ended = ", ".join(f"{ends[end]:,} {end}" for end in ENDS)
        moves = sum(len(history.moves) for history in self._histories.values())
        return [
            self._sum.check(f"{self._balances:,} cents in {len(self._opened):,} accounts, {held:,} in transfers"),
            self._balance.check(f"{self._steps:,} events of accounts"),
            self._ended.check(ended),
            self._moved.check(f"{moves:,} movements"),
        ]

    def _check_opening(self, key: str, record: Record, initial: int) -> None:
        """Check that an account began with its first payment, unless either of them may have been deleted."""
        is_first = self._accounts.first_commands[record.partition] == 0
        if self._opened.get(key) == initial:
            return
        if is_first and self._accounts.has_all_events(key):
            self._sum.wrong(record, f"{initial} cents were paid in, but the account began with {self._opened.get(key)}")
        else:
            self._sum.unverifiable += 1

    def _check_transfer(self, transfer: str, history: TransferHistory) -> None:
        partition = self._transfers.partition(transfer)
        where = Place(
            self._transfers.commands, partition, -1 if history.asked_at is None else history.asked_at, transfer
        )
        if history.starts == 0:
            finding = self._ended if history.asked_at is not None else self._moved
            if not self._transfers.has_all_events(transfer):
                finding.unverifiable += 1
                return
            moved = f", but moved {_shown(history)}" if history.moves else ""
            finding.wrong(where, f"the transfer never started{moved}")
            return
        if history.asked_at is None and history.cause >= self._transfers.first_commands[partition]:
            self._ended.wrong(where, "no command started this transfer")
        self._ended.unverifiable += history.asked_at is None
        if history.ends == 0:
            holds = f", and holds {history.started.amount} cents" if history.started and history.holds else ""
            self._ended.wrong(where, f"the transfer never ended{holds}")
        elif history.ends == 1:
            self._check_moves(where, history)

    def _check_moves(self, where: Place, history: TransferHistory) -> None:
        """Check that the money moved as the transfer ended, as far as the journals of its accounts are left."""
        found, expected = Counter(history.moves), history.expected_moves()
        missing = expected - found
        if found - expected or any(self._accounts.has_all_events(move.account) for move in missing):
            self._moved.wrong(where, f"the transfer {history.end}, but the movements were: {_shown(history)}")
        else:
            self._moved.unverifiable += bool(missing)


def _command_of(record: Record) -> int:
    """Return the offset of the command that a record names as its cause; `verify` checks causes."""
    parts = (record.header("cause") or b"").split(b"/")
    return int(parts[2]) if len(parts) == 4 and parts[2].isdigit() else -1


def _shown(history: TransferHistory) -> str:
    if not history.moves:
        return "nothing"
    return ", ".join(f"{move.kind} {abs(move.cents)} at {move.account!r}" for move in history.moves)
