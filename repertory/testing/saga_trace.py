"""What a saga was given and decided, turn by turn, and the same again in another process with another hash seed.

``python -m repertory.testing.saga_trace`` is that process: it reads a request from its standard input.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import blake2b
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from repertory.actors.collected import Send, Tell
from repertory.actors.message import Envelope, Message, Sender
from repertory.actors.saga.inner import StepAnswer
from repertory.actors.saga.progress import SAGA_EVENTS, StepsOpened
from repertory.actors.saga.step import NonDeterministic, described
from repertory.actors.timer import FiredTimer
from repertory.actors.wire import MessageDecoder

if TYPE_CHECKING:
    from repertory.actors.saga.saga import Saga
    from repertory.actors.shard.decision import Decision

_TIMEOUT_S = 60.0
_journal = MessageDecoder(SAGA_EVENTS)


class DecidedTurn(msgspec.Struct, frozen=True):
    """One message of a saga, and what was decided: the events as they are written, the digest of all that is sent.

    ``answers``: the step that the message answers, "" for one that is not an answer.
    """

    offset: int
    timestamp_ms: int
    value: bytes
    answers: str
    rejected: bool
    sender: Sender | None
    timer: FiredTimer | None
    events: tuple[bytes, ...]
    sent: bytes

    @classmethod
    def of(cls, envelope: Envelope, decision: Decision) -> DecidedTurn:
        """Return the turn of a message, with its decision."""
        message = envelope.message
        answers, rejected = (message.step, message.rejected) if isinstance(message, StepAnswer) else ("", False)
        digest = blake2b(b"\0".join((*decision.sent, *decision.later_data, decision.reply_data)), digest_size=16)
        for each in decision.outputs:
            if isinstance(each, Tell | Send):
                digest.update(f"\0{each.key}\0{each.about}".encode())
        return cls(
            envelope.offset, envelope.timestamp_ms, envelope.value, answers, rejected, envelope.sender, envelope.timer,
            tuple(decision.events), digest.digest(),
        )  # fmt: skip


class TracesToRun(msgspec.Struct, frozen=True):
    """What the other process is asked: to run these traces of a saga, of that class of a module, again."""

    path: list[str]
    module: str
    name: str
    key: str
    traces: Sequence[Sequence[DecidedTurn]]


def difference(first: DecidedTurn, second: DecidedTurn) -> str | None:
    """Return what two runs of one turn have not in common, the first such step if there is one; None if nothing."""
    for one, other in zip(first.events, second.events, strict=False):
        if one != other:
            return _differs(_journal.decode(one), _journal.decode(other))
    if len(first.events) != len(second.events) or first.sent != second.sent:
        return f"what it does about the message at offset {first.offset}"
    return None


def replay(saga: type[Saga], key: str, traces: Sequence[Sequence[DecidedTurn]]) -> None:
    """Run traces again in a new process; NonDeterministic if a turn is another there, ValueError if that cannot be."""
    if "<locals>" in saga.__qualname__ or saga.__module__ == "__main__":
        raise ValueError(f"{saga.__qualname__} cannot be imported by another process; define it at the top of a module")
    wanted = TracesToRun(sys.path, saga.__module__, saga.__qualname__, key, traces)
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(  # noqa: S603  ourselves
        [sys.executable, "-m", __name__],
        input=msgspec.msgpack.encode(wanted),
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the other process has failed:\n{done.stderr.decode(errors='replace')}")
    if flaw := done.stdout.decode():
        raise NonDeterministic(f"{saga.__name__} differs in another process: {flaw}")


def _differs(one: Message, other: Message) -> str:
    if not isinstance(one, StepsOpened) or not isinstance(other, StepsOpened):
        return f"first {one!r:.300}, then {other!r:.300}"
    for step, again in zip(one.steps, other.steps, strict=False):
        if step != again:
            first, second = described(step), described(again)
            if first == second and step.digest == again.digest:
                second = "the same with another undo or time-out"
            elif first == second:
                first, second = f"{first} of {step.digest.hex()}", f"{second} of {again.digest.hex()}"
            return f"step {step.n}: first {first}, then {second}"
    return f"steps {one.steps[0].n} to {one.steps[-1].n}: first {len(one.steps)}, then {len(other.steps)}"


def _run_again(wanted: TracesToRun) -> str:
    """Return the first difference, "" if there is none."""
    from repertory.testing.saga_kit import SagaKit  # noqa: PLC0415  which imports this module

    saga: Any = import_module(wanted.module)
    for name in wanted.name.split("."):
        saga = getattr(saga, name)
    for trace in wanted.traces:
        kit = SagaKit(saga, key=wanted.key)
        for turn in trace:
            if (flaw := difference(turn, kit.again(turn))) is not None:
                return flaw
    return ""


def main() -> None:
    """Run what standard input asks for."""
    wanted = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=TracesToRun)
    sys.path[:] = wanted.path
    sys.stdout.write(_run_again(wanted))


if __name__ == "__main__":
    main()
