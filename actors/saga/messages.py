"""What a saga answers and takes beside its own messages: a time-out, how it ended, what operators want."""

from __future__ import annotations

from repertory.actors.message import Command, Rejection


class TimedOut(Rejection, name="repertory.timed-out"):
    """What an ask of a saga with ``timeout_s`` returns if no answer came in time. It is revoked then.

    If it was applied nevertheless, its undo runs before the saga is over.
    """


class Cancelled(Rejection, name="repertory.cancelled"):
    """The answer of a saga that was cancelled: what it had done is undone. ``reason``: of who cancelled it."""

    reason: str = ""


class AlreadyBegun(Rejection, name="repertory.already-begun"):
    """The answer to a start of a saga key that was started by another command, of another type or other fields."""


class NoSuchSaga(Rejection, name="repertory.no-such-saga"):
    """The answer to a signal, a cancel or an operator's request for a saga that was never started, or is forgotten."""


class TooLate(Rejection, name="repertory.too-late"):
    """The saga is over, rolls back, or has applied a pivot and not called ``keep`` since; nothing has changed.

    ``reason`` says which. Behind a pivot only the saga's code knows how to go on: what it undid would not be all.
    """

    reason: str = ""


class NotStuck(Rejection, name="repertory.not-stuck"):
    """The answer to a request about the undo of a step that the saga is not stuck at; nothing has changed."""

    reason: str = ""


class CancelSaga(Command, name="repertory.cancel-saga"):
    """Cancel the saga of this key: what it has done is undone, and it answers `Cancelled`.

    Answered ``Done`` if it rolls back now, `TooLate` or `NoSuchSaga`. With a pivot under way the answer comes when that
    has been answered. A saga that could not begin yet, since its code failed at once, never does: its start becomes a
    dead letter, and the answer is ``Done`` too.
    """

    reason: str = ""


class RetryUndo(Command, name="repertory.retry-undo"):
    """Try the undo of step ``step`` again, at which the saga is stuck."""

    step: int


class SkipUndo(Command, name="repertory.skip-undo"):
    """Go on without the undo of step ``step``, at which the saga is stuck: somebody has seen to it."""

    step: int
    reason: str = ""


class AmendUndo(Command, name="repertory.amend-undo"):
    """Try another undo of step ``step``, at which the saga is stuck: ``message``, encoded, in place of the recorded."""

    step: int
    message: bytes


#: What acts on a saga when it is taken, also while commands of its key are stashed.
URGENT: tuple[type[Command], ...] = (CancelSaga, RetryUndo, SkipUndo, AmendUndo)
