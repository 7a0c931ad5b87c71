"""`WholeTicks`: notices that an exception left a loop half way through a tick."""

from __future__ import annotations


class LoopInterrupted(RuntimeError):
    """An exception left a tick half done. What is in memory contradicts the log: drop the loop, and start another."""


class WholeTicks:
    """A context manager around each tick. After an exception has left one, it refuses every further call.

    A tick takes commands, moves the position and changes entities before any of it is in a transaction. It is safe
    against an asynchronous exception (Ctrl-C) at any instruction: only a tick that ended clears the flag.
    """

    __slots__ = ("is_interrupted",)

    def __init__(self) -> None:
        #: Whether a tick is under way, or was left by an exception.
        self.is_interrupted = False

    def refuse_interrupted(self) -> None:
        """Raise LoopInterrupted if an exception left a tick."""
        if self.is_interrupted:
            raise LoopInterrupted("an exception left this loop within a tick: start another; it recovers from the log")

    def __enter__(self) -> None:
        self.refuse_interrupted()
        self.is_interrupted = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.is_interrupted = False
