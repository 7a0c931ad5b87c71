"""The fold of a saga's journal, and what of it is compared: total, and the same for what is the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory import Command, Sender
from repertory.actors.saga.fold import FOLD, fold
from repertory.actors.saga.progress import (
    RecordedCall,
    RecordedStep,
    SagaBegan,
    SagaPhase,
    SagaProgress,
    StepAnswered,
    StepKind,
    StepsOpened,
)
from repertory.actors.saga.step import digest_of
from repertory.actors.wire import encode

senders = st.none() | st.builds(Sender, topic=st.just("t"), correlation_id=st.sampled_from("ab"))
numbers = st.integers(0, 5)
calls = st.builds(RecordedCall, target=st.just("store"), key=st.sampled_from("ab"), message=st.binary(max_size=3))
kinds: list[StepKind] = ["ask", "require", "perform", "sleep", "signal"]
steps = st.builds(
    RecordedStep, n=numbers, kind=st.sampled_from(kinds), undo=st.none() | calls, is_pivot=st.booleans(),
    done=st.integers(0, 9), sent=st.booleans(), answered=st.booleans(), rejected=st.booleans(),
)  # fmt: skip
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "steps": st.lists(steps, min_size=1, max_size=3).map(tuple),
    "over": st.lists(numbers, max_size=3).map(tuple),
    "sender": senders,
    "call": st.none() | calls,
}


def _field(name: str, annotation: str) -> st.SearchStrategy[Any]:
    if name in FIELDS:
        return FIELDS[name].filter(lambda each: each is not None) if annotation == "Sender" else FIELDS[name]
    plain = {"int": numbers, "str": st.sampled_from("ab"), "bytes": st.binary(max_size=3), "bool": st.booleans()}
    return plain[annotation]


def _events() -> st.SearchStrategy[Any]:
    return st.one_of(
        *(
            st.builds(kind, **{n: _field(n, a) for n, a in vars(kind).get("__annotations__", {}).items()})
            for kind in FOLD
        )
    )


@given(st.lists(_events(), max_size=12))
def test_the_fold_is_total(events: list[Any]) -> None:
    """Any events in any order have a progress, which is restored from its bytes, and can be asked anything."""
    progress = SagaProgress()
    for event in events:
        progress = fold(progress, event)
        assert msgspec.msgpack.decode(encode(progress), type=SagaProgress) == progress
        assert progress.next_step >= progress.first
        assert set(progress.unsettled()) <= set(progress.steps)
        for step in progress.steps:
            found = progress.step(step.n)
            assert found is not None
            assert found.n == step.n
        due = list(progress.to_undo())
        assert all(each.undo is not None and each.was_applied and not each.undone for each in due)


def test_steps_are_completed_in_the_order_of_their_answers() -> None:
    """Each has its place in it, and the time of its answer."""
    began = SagaBegan(version=1, command=b"", digest=b"", cause="c", life=3, at_ms=5)
    progress = fold(SagaProgress(), began)
    progress = fold(progress, StepsOpened(steps=(RecordedStep(0, "ask"), RecordedStep(1, "ask"))))
    progress = fold(progress, StepAnswered(n=1, value=b"x", rejected=False, at_ms=7))
    progress = fold(progress, StepAnswered(n=0, value=b"y", rejected=True, at_ms=8))
    assert [(each.done, each.done_ms, each.rejected) for each in progress.steps] == [(2, 8, True), (1, 7, False)]
    assert (progress.phase, progress.order, progress.life) == (SagaPhase.RUNNING, 2, 3)


class Line(msgspec.Struct, frozen=True, order=True):
    """Part of a message, as it was."""

    item: str


class NewLine(msgspec.Struct, frozen=True, order=True):
    """The same with a field more."""

    item: str
    count: int = 1
    tags: tuple[str, ...] = ()


class Buy(Command):
    """A message, as it was."""

    lines: tuple[Line, ...]
    by: dict[str, Line]


class NewBuy(Command, name="Buy", version=2):
    """The same with fields more."""

    lines: tuple[NewLine, ...]
    by: dict[str, NewLine]
    note: str = ""
    tags: list[str] = []  # noqa: RUF012  a message's
    of: dict[str, int] = msgspec.field(default_factory=dict)


def test_an_added_field_with_a_default_changes_no_digest() -> None:
    """Neither in a message nor in what is within; a value that is not the default does."""
    old = Buy(lines=(Line("x"),), by={"eve": Line("y")})
    new = NewBuy(lines=(NewLine("x"),), by={"eve": NewLine("y")})
    assert digest_of(new) == digest_of(old)
    assert digest_of(NewBuy(lines=(NewLine("x", 2),), by={"eve": NewLine("y")})) != digest_of(old)
    assert digest_of(NewBuy(lines=new.lines, by=new.by, tags=["a"])) != digest_of(old)


@dataclass(frozen=True)
class Place:
    """A dataclass, as it was."""

    row: int


@dataclass(frozen=True)
class NewPlace:
    """The same with fields more."""

    row: int
    seat: str = ""
    near: tuple[int, ...] = field(default_factory=tuple)


class Size(NamedTuple):
    """A named tuple, as it was."""

    width: int


class NewSize(NamedTuple):
    """The same with a field more."""

    width: int
    height: int = 0


class Sit(Command):
    """A message of other kinds of records, as it was."""

    at: Place
    size: Size
    lines: frozenset[Line]
    names: frozenset[str]


class NewSit(Command, name="Sit", version=2):
    """The same with fields more within."""

    at: NewPlace
    size: NewSize
    lines: frozenset[NewLine]
    names: frozenset[str]


def test_other_records_within_may_have_more_fields_too() -> None:
    """Dataclasses, named tuples, and structs in sets, whose order differs from process to process."""
    names = frozenset({"a", "b", "c"})
    old = Sit(at=Place(1), size=Size(2), lines=frozenset({Line("x"), Line("y")}), names=names)
    lines = frozenset({NewLine("y"), NewLine("x")})
    new = NewSit(at=NewPlace(1), size=NewSize(2), lines=lines, names=names)
    assert digest_of(new) == digest_of(old)
    for other in (
        msgspec.structs.replace(new, at=NewPlace(1, "b")),
        msgspec.structs.replace(new, size=NewSize(2, 1)),
        msgspec.structs.replace(new, lines=frozenset({NewLine("x"), NewLine("y", 2)})),
        msgspec.structs.replace(new, names=names - {"a"}),
    ):
        assert digest_of(other) != digest_of(old)


class Flags(Command):
    """Has values that are equal and not the same."""

    one: int | bool | float = 1


@pytest.mark.parametrize("value", [True, 1.0, 2])
def test_a_value_that_only_equals_the_default_is_another(value: Any) -> None:
    """What is sent differs."""
    assert digest_of(Flags(one=value)) != digest_of(Flags())
