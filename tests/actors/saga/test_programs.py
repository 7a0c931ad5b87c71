"""Any saga, answered in any way, does what a simple model of it does."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from repertory import Done, Rejection, SagaKit, TooLate, Undelivered
from repertory.actors.saga.inner import StepAnswer
from repertory.actors.saga.messages import CancelSaga
from repertory.actors.wire import encode
from tests.actors.saga.domain import Approve, Posted, Refused, Returned, Short, Taken, post
from tests.actors.saga.programs import Model, Op, Play, Played

singles = st.sampled_from(["require", "ask", "pivot", "timed", "perform", "sleep", "signal"])
racers = st.sampled_from(["ask", "timed", "perform", "sleep", "signal"])
ops = st.one_of(
    st.builds(Op, kind=singles, undoes=st.booleans()),
    st.lists(singles, min_size=2, max_size=3).map(  # A gather takes no pivot beside what can be undone.
        lambda steps: Op("gather", undoes="pivot" not in steps, steps=tuple(steps))
    ),
    st.builds(Op, kind=st.just("race"), steps=st.lists(racers, min_size=2, max_size=3).map(tuple)),
    st.builds(Op, kind=st.sampled_from(["keep", "fail"])),
)


@st.composite
def programs(draw: st.DrawFn) -> tuple[Op, ...]:
    """Draw what a saga does; it begins again behind a step only."""
    parts = draw(st.lists(st.lists(ops, max_size=4), min_size=1, max_size=3))
    found: list[Op] = []
    for part in parts:
        if found:
            found += [Op("ask"), Op("again")]
        found += part
    return tuple(found)


class SideBySide:
    """A saga and its model, side by side."""

    def __init__(self, data: st.DataObject, program: tuple[Op, ...]) -> None:
        self.data, self.model, self.kit = data, Model(program), SagaKit(Played)
        self.kit.start(Play(ops=program))
        self.refusals = self.cancels = 0
        self.answered: list[StepAnswer] = []
        self.check()

    def check(self) -> None:
        """Compare the two."""
        kit, model = self.kit, self.model
        waits = {each.n for each in kit.open if each.kind != "undo"}
        assert waits == model.open
        assert (kit.outcome is not None) == (model.outcome is not None)
        if model.outcome == "rejected":
            assert isinstance(kit.outcome, Rejection)
        elif model.outcome is not None:
            assert type(kit.outcome).__name__ == model.outcome
        undoing = [each.n for each in kit.open if each.kind == "undo"]
        if not kit.stuck:
            assert undoing == ([model.undoing.n] if model.undoing else [])
        assert not (undoing and waits), "it undoes before all is settled"
        assert kit.is_over == model.is_over

    def moves(self) -> list[str]:
        """Return what may happen next."""
        found = [f"answer {each.n}" for each in self.kit.open if each.answers and each.kind != "undo"]
        if self.kit.stuck:
            return ["retry", "skip"]
        if any(each.kind == "undo" for each in self.kit.open):
            found.append("undo")
        if self.kit.outcome is None:
            if any(each.due_s is not None for each in self.kit.open):
                found.append("due")
            found.append("signal")
            if self.cancels < 2:
                found.append("cancel")
        if self.answered:
            found.append("old answer")
        return found

    def move(self, move: str) -> None:
        """Let that happen in both."""
        kit, model, draw = self.kit, self.model, self.data.draw
        match move.split():
            case ["answer", number]:
                n = int(number)
                step = next(each for each in kit.open if each.n == n)
                applied: Any = Posted() if step.receiver is post else Taken()
                other: Any = None if step.receiver is post else Short()
                value = draw(st.sampled_from([applied, other, Undelivered(reason="x")]))
                kit.answer(value, n)
                taken = Done() if value is None else value
                rejected = isinstance(value, Rejection)
                about = f"~{kit.progress.life}/{n}"
                self.answered.append(StepAnswer(step=about, value=encode(taken), rejected=rejected))
                # An effect that was dropped may have been done.
                model.answer(n, applied=not rejected or step.receiver is post)
            case ["undo"]:
                if self.refusals < 2 and draw(st.booleans()):
                    self.refusals += 1
                    kit.answer(Refused())
                    assert kit.stuck
                else:
                    kit.answer(Returned())
                    model.undone()
            case ["retry"]:
                kit.retry_undo()
            case ["skip"]:
                kit.skip_undo()
                model.undone()
            case ["due"]:
                left_s = min(each.due_s for each in kit.open if each.due_s is not None)
                due = model.due()
                kit.advance(left_s)
                for n in due:
                    model.expire(n)
            case ["signal"]:
                kit.signal(Approve())
                model.signal()
            case ["cancel"]:
                self.cancels += 1
                kit.cancel()
                model.cancel()
            case ["old", "answer"]:
                old = draw(st.sampled_from(self.answered))
                before = kit.progress
                assert kit._run(old, old.step, 1, None).events == ()
                assert kit.progress == before
        self.check()


@settings(deadline=None, max_examples=500)
@given(st.data(), programs())
def test_any_saga_does_what_its_model_does(data: st.DataObject, program: tuple[Op, ...]) -> None:
    """It waits for the same, ends alike, undoes the same in the same order; nobody is answered twice.

    Old answers, cancels in each gap, time-outs, late answers, undos that are rejected: what was applied is undone, or
    stands because the code has said so.
    """
    both = SideBySide(data, program)
    for _ in range(40):
        if both.kit.is_over:
            break
        both.move(data.draw(st.sampled_from(both.moves())))
    while not both.kit.is_over:  # Draw no more, so that each example ends.
        moves = [each for each in both.moves() if each not in ("old answer", "signal")]
        both.move((moves or ["signal"])[0])
    starts = [reply for asked, reply in both.kit.replies if isinstance(asked, Play)]
    assert starts == [both.kit.outcome]
    cancels = [reply for asked, reply in both.kit.replies if isinstance(asked, CancelSaga)]
    assert len(cancels) == both.cancels
    assert all(isinstance(each, Done | TooLate) for each in cancels)
    signals = [reply for asked, reply in both.kit.replies if isinstance(asked, Approve)]
    assert len(signals) == len([turn for turn in both.kit.turns if b"Approve" in turn.value and not turn.answers])
