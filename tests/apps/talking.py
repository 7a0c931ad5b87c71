"""An application that talks: its handlers log, print, and fail in all the ways in which user code can."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Self

from repertory import ActorSystem, Backoff, Command, Directive, Entity, Event, Settings, command, event, restart

log = logging.getLogger("shop.till")


class Charge(Command):
    """Take money. It is logged and printed, as if money left an account each time."""

    amount: int


class Fail(Command):
    """Fail in a way."""

    how: str


class Odd(Command):
    """Refuses odd numbers when it is decoded."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


class Charged(Event):
    """Money was taken."""

    amount: int


class Spoiled(Event):
    """An event that cannot be applied."""


class SilentError(Exception):
    """Fails when it is shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def descend(depth: int) -> None:
    """Fail after so many calls of itself."""
    if depth:
        descend(depth - 1)
    raise ValueError("the bottom")


def refuse() -> None:
    """Fail with control sequences in the message."""
    raise ValueError("\x1b[2J\x1b]0;owned\x07 card \u202e refused\r\nFAKE 2026-01-01 ERROR a line of its own")


class Till(Entity):
    """A till."""

    total: int = 0

    def __post_init__(self) -> None:
        if self.total > 1_000:
            raise ValueError(f"{self.total} is more than a till can hold")

    @command
    def charge(self, cmd: Charge) -> Charged:
        log.info("charging %s", cmd.amount)
        log.debug("carefully")
        print(f"printing {cmd.amount}")  # noqa: T201  users do
        return Charged(amount=cmd.amount)

    @command
    def odd(self, cmd: Odd) -> None:
        return None

    @command
    def fail(self, cmd: Fail) -> tuple[Charged | Spoiled, ...]:
        match cmd.how:
            case "deep":
                descend(900)
            case "silent":
                raise SilentError
            case "group":
                raise ExceptionGroup("many", [ValueError("first"), KeyError("second")])
            case "syntax" | "library":
                importlib.import_module(f"talking_{cmd.how}").rate("monday")
            case "encode":
                return (Charged(amount=object()),)  # type: ignore[arg-type]
            case "evolve":
                return (Spoiled(),)
            case "invariant":
                return (Charged(amount=2_000),)
            case "exit":
                os._exit(3)
            case "log":
                try:
                    refuse()
                except ValueError:
                    log.exception("it was refused\x1b[2J\nand more", extra={"key": "mine", "card": 7})
                return ()
            case "chain":
                try:
                    refuse()
                except ValueError as error:
                    raise LookupError("no price") from error
        refuse()
        return ()

    @event
    def charged(self, evt: Charged) -> Self:
        log.info("charged %s", evt.amount)
        return self.replace(total=self.total + evt.amount)

    @event
    def spoiled(self, _evt: Spoiled) -> Self:
        raise TypeError("it is spoiled")


system = ActorSystem(os.environ.get("TALKING_NAME", "talking"), settings=Settings(progress_timeout_s=20.0))
system.host(
    Till,
    partitions=2,
    supervise=restart(
        max_restarts=1,
        backoff=Backoff(first_s=0.01),
        on={KeyError: Directive.RESUME, LookupError: Directive.RESUME},
    ),
)
