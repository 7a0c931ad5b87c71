"""What must hold for the sagas of `tests.apps.sagas`, whatever fails, as their journals and purses show it.

It is written down a second time: nothing here uses the fold, the replay or the settling of sagas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from repertory.actors.message import Message, Stopped
from repertory.actors.saga.progress import (
    RaceWon,
    RecordedStep,
    SagaAgain,
    SagaBegan,
    SagaCancelling,
    SagaOver,
    SagaSettling,
    SagaStuck,
    SignalCame,
    SignalRevoked,
    SignalTaken,
    StarterJoined,
    StepAnswered,
    StepExpired,
    StepsOpened,
    StepUndoing,
    StepUndone,
    WorkKept,
)
from repertory.bridge import topics
from repertory.simulation.invariant import Outcome
from tests.apps.purses import Purse, Unput
from tests.apps.sagas import Deal


class Story:
    """One life of a saga, as its journal tells it. Raises AssertionError for what no saga does."""

    def __init__(self, key: str, began: SagaBegan) -> None:
        self.key, self.life = key, began.life
        self.steps: dict[int, RecordedStep] = {}
        self.groups: dict[int, tuple[int, ...]] = {}
        #: Completed steps, in order; answers, by step; what is not for the code; what is undone or skipped.
        self.done: list[int] = []
        self.rejected: dict[int, bool] = {}
        self.abandoned: set[int] = set()
        self.undone: list[int] = []
        self.skipped: set[int] = set()
        self.stuck = ""
        self.undoing = -1
        self.first = 0
        self.stands = 0
        self.came: dict[int, str] = {}
        self.taken: list[int] = []
        self.settling: SagaSettling | None = None
        self.over = False
        #: Whether somebody has told it to run, who never takes that back.
        self.is_told = began.sender is None

    def tell(self, evt: Message) -> None:
        """Take the next event."""
        assert not self.over, f"{self.key}: {evt} after its end"
        self._tell_of_steps(evt)
        self._tell_of_signals(evt)
        self._tell_of_the_end(evt)

    def _tell_of_steps(self, evt: Message) -> None:
        match evt:
            case StepsOpened(steps=steps):
                assert self.settling is None, f"{self.key}: opens {steps} with its outcome"
                for each in steps:
                    assert each.n not in self.steps, f"{self.key}: opens step {each.n} twice"
                    self.steps[each.n], self.groups[each.n] = each, tuple(one.n for one in steps)
            case StepAnswered(n=n, rejected=rejected):
                assert n not in self.rejected, f"{self.key}: step {n} is answered twice"
                self.rejected[n] = rejected
                self.done += [] if n in self.done else [n]
            case StepExpired(n=n):
                assert n not in self.done, f"{self.key}: step {n} expires after its end"
                self.done.append(n)
                self.abandoned.update([] if self.steps[n].kind == "sleep" else [n])
            case RaceWon(n=n, over=over):
                group = self.groups[n]
                first = [each for each in self.done if each in group]
                assert first[:1] == [n], f"{self.key}: {n} has won, but {first} was there first"
                assert {n, *over} == {*group}, f"{self.key}: the race {group} is won by {n} over {over}"
                self.abandoned.update(over)

    def _tell_of_signals(self, evt: Message) -> None:
        match evt:
            case SignalCame(name=name):
                self.came[len(self.came)] = name
            case SignalTaken(number=number, n=n):
                same = [each for each, name in self.came.items() if name == self.came[number]]
                left = [each for each in same if each not in self.taken]
                assert left[:1] == [number], f"{self.key}: takes signal {number}, not {left[:1]}"
                self.taken.append(number)
                self.done.append(n)
            case SignalRevoked(number=number):
                assert number not in self.taken, f"{self.key}: signal {number} is revoked, and was taken"
                self.taken.append(number)

    def _tell_of_the_end(self, evt: Message) -> None:
        match evt:
            case WorkKept() | SagaAgain():
                self._keep(evt)
            case StarterJoined(sender=None):
                self.is_told = True
            case SagaCancelling(reason="revoked by who started it"):
                assert not self.is_told, f"{self.key}: was told to run, and is cancelled by one who has asked"
            case SagaSettling():
                self.settling = evt
            case StepUndoing(n=n):
                self._undoing(n)
            case StepUndone(n=n, skipped=skipped):
                assert n == self.undoing, f"{self.key}: {n} is undone, not {self.undoing}"
                self.undone.append(n)
                self.undoing, self.stuck = -1, ""
                self.skipped.update([n] if skipped else [])
            case SagaStuck(reason=reason):
                assert reason, f"{self.key}: is stuck without a reason"
                self.stuck = reason
            case SagaOver():
                self._over()

    @property
    def unsettled(self) -> list[int]:
        """The steps of which it is not known whether they were applied."""
        return [n for n, each in self.steps.items() if self._asks(each) and each.sent and n not in self.rejected]

    def owed(self) -> list[int]:
        """Return the steps that must be undone before the end, the last first."""
        assert self.settling is not None
        found = []
        for n in sorted(self.steps, reverse=True):
            step = self.steps[n]
            if step.undo is None or self.rejected.get(n) is not False:
                continue
            if n in self.abandoned or (self.settling.rejected and self.done.index(n) >= self._stands()):
                found.append(n)
        return found

    def _stands(self) -> int:
        """Return how many of the completed steps stand, whatever comes."""
        pivots = [
            self.done.index(n) + 1
            for n, each in self.steps.items()
            if each.is_pivot and n >= self.first and self.rejected.get(n) is False
        ]
        return max(self.stands, *pivots, 0)

    def _keep(self, evt: WorkKept | SagaAgain) -> None:
        assert self.settling is None, f"{self.key}: {evt} with its outcome"
        self.stands = self._stands() if isinstance(evt, SagaAgain) else len(self.done)
        if isinstance(evt, SagaAgain):
            self.first = max(self.steps, default=-1) + 1

    def _undoing(self, n: int) -> None:
        assert self.settling is not None, f"{self.key}: undoes {n} and runs"
        assert not self.unsettled, f"{self.key}: undoes {n} before {self.unsettled} are settled"
        left = [each for each in self.owed() if each not in self.undone]
        assert left[:1] == [n], f"{self.key}: undoes {n}, and should {left}"
        assert self.undoing in (-1, n), f"{self.key}: undoes {n} before {self.undoing} is undone"
        assert self.undoing == -1 or self.stuck, f"{self.key}: undoes {n} twice"
        self.undoing, self.stuck = n, ""

    def _over(self) -> None:
        assert self.settling is not None, f"{self.key}: is over without an outcome"
        assert not self.unsettled, f"{self.key}: is over before {self.unsettled} are settled"
        assert self.owed() == self.undone, f"{self.key}: is over, and should have undone {self.owed()}: {self.undone}"
        self.over = True

    @staticmethod
    def _asks(step: RecordedStep) -> bool:
        return step.kind in ("ask", "require", "perform")


def stories(outcome: Outcome) -> Iterator[Story]:
    """Yield the lives of all sagas."""
    hosted = outcome.system.hosted[Deal]
    events = topics.events_topic(outcome.system.name, hosted.behaviour.name)
    now: dict[str, Story] = {}
    for partition in range(hosted.partitions):
        for record in outcome.reader.read(events, partition):
            key, evt = (record.key or b"").decode(), hosted.behaviour.journal.decode(record.value or b"")
            if isinstance(evt, SagaBegan):
                now[key] = Story(key, evt)
            elif isinstance(evt, Stopped):
                assert now[key].over, f"{key}: is forgotten before its end"
                yield now.pop(key)
            else:
                now[key].tell(evt)
    yield from now.values()


def invariant(outcome: Outcome) -> None:
    """Check that money is conserved, and that each saga is done, undone, stuck, or waits for something."""
    told = conserved(outcome)
    if not outcome.parked():
        others = {each.key for each in told if not each.over}
        kept = {each.sender.key or "" for purse in _purses(outcome) for each in purse.kept}
        for story in told:
            _waits(story, others, kept)


def conserved(outcome: Outcome) -> list[Story]:
    """Check that money is conserved, at any time; return what each saga has done."""
    told, lost = list(stories(outcome)), dict[str, int]()
    held: dict[str, int] = defaultdict(int)
    for purse in _purses(outcome):
        assert purse.money == purse.cash - sum(purse.held.values()), f"money came from nowhere: {purse}"
        assert purse.money >= 0, f"a purse is overdrawn: {purse}"
        for key, amount in purse.held.items():
            held[key] += amount
    for key in {story.key for story in told}:
        mine = [story for story in told if story.key == key]
        lost[key] = sum(_skipped(story) for story in mine)
        if all(story.over for story in mine):
            assert held[key] == lost[key], f"{key} is over and holds {held[key]}; operators have given up {lost[key]}"
    assert not {key for key, amount in held.items() if amount} - lost.keys(), f"nobody holds {dict(held)}"
    return told


def _purses(outcome: Outcome) -> Iterable[Purse]:
    for key in ("home", *(f"p{number}" for number in range(4))):
        if (purse := outcome.state(Purse, key)) is not None:
            yield purse


def _skipped(story: Story) -> int:
    """Return what a saga holds for ever since operators have skipped its undos."""
    total = 0
    for n in story.skipped:
        undo = story.steps[n].undo
        assert undo is not None
        if not undo.is_effect:
            message: dict[str, Any] = msgspec.msgpack.decode(undo.message)
            total += -message["amount"] if message["type"] == Unput.wire.name else message["amount"]
    return total


def _waits(story: Story, others: set[str], kept: set[str]) -> None:
    """Check that a saga which is not over waits for somebody: another saga, or a purse that has ``kept`` it."""
    if story.over or story.stuck:
        return
    opened = [story.steps[n] for n in story.unsettled]
    if all(each.kind == "perform" for each in opened) and story.undoing < 0 and story.settling is not None:
        assert opened, f"{story.key} settles, and waits for nothing"
        return
    for step in opened:
        if step.kind != "perform" and step.target == "deal":
            assert step.key in others, f"{story.key} waits for the answer of {step.key}, which is over"
        elif step.kind != "perform":
            assert story.key in kept, f"{story.key} waits for {step.target} {step.key} at step {step.n}"
