"""Which records a saga takes for the answer to a step, and that there is always room for one."""

from __future__ import annotations

import pytest

from examples.banking.accounts import Withdrawn
from repertory import ActorSystem, Cancelled, Command, Done, Event, Saga, SagaContext, TooLate, run, signal
from repertory.actors.entity import resolved
from repertory.actors.headers import ABOUT, CORRELATION_ID, REJECTED, REPLY_KEY, REPLY_TO, RETRY_OF, Headers
from repertory.actors.message import Envelope
from repertory.actors.saga.inner import StepAnswer
from repertory.actors.wire import encode
from repertory.bridge.codec import Codec
from repertory.bridge.log.record import Record
from tests.apps.sagabank import Start, Transfer

STEP = (ABOUT, b"~7/0")
ASKED = ((REPLY_TO, b"saga-bank.transfer.commands"), (REPLY_KEY, b"parent"), (CORRELATION_ID, b"x/0/1/2"))


def _decoded(value: bytes, *headers: tuple[str, bytes]) -> Envelope:
    codec = Codec("saga-bank", resolved(Transfer), lambda _topic: 1, input_bytes_max=1_000)
    found = codec.decode(Record("saga-bank.transfer.commands", 0, 3, b"t", value, Headers(headers), 0))
    assert isinstance(found, Envelope), found
    return found


@pytest.mark.parametrize("rejected", [False, True])
def test_an_answer_is_taken_as_it_came(rejected: bool) -> None:  # noqa: FBT001
    """It is not decoded, whatever it is and however large: a build that knows its type reads it later."""
    value = encode(Withdrawn(amount=1, transfer="t")) + b"x" * 2_000
    found = _decoded(value, STEP, *([(REJECTED, b"1")] if rejected else []))
    assert found.message == StepAnswer(step="~7/0", value=value, rejected=rejected)


def test_an_ask_is_no_answer() -> None:
    """A start that another saga asks has the ``about`` of that saga's step, and so has its dead letter, retried."""
    start = Start(source="a", target="b", amount=1)
    assert _decoded(encode(start), STEP, *ASKED).message == start
    assert _decoded(encode(start), STEP, (RETRY_OF, b"saga-bank.dead-letters/0/1")).message == start


class Note(Command):
    """Text for a saga that waits."""

    text: str


class Begin(Command):
    """Wait for the end."""


class End(Command):
    """End a saga that waits."""


class Ended(Event):
    """The saga was told to end."""


class Waiting(Saga):
    """Waits for its end, and leaves notes unread."""

    note = signal(Note)
    end = signal(End)

    @run
    async def wait(self, _cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
        """Wait for the end."""
        await ctx.signal(End)
        return Ended()


def test_signals_leave_room() -> None:
    """A signal for which there is no room is refused, and the saga goes on with those that it can hold."""
    system = ActorSystem("waiting")
    system.host(Waiting, partitions=1)
    with system.start("memory:") as running:
        client = running.client
        client.tell(Waiting.wait, "w", Begin())
        for _ in range(6):
            client.tell(Waiting.note, "w", Note(text="x" * 200_000))
        refused = client.ask(Waiting.note, "w", Note(text="x" * 200_000), timeout_s=10)
        assert isinstance(refused, TooLate)
        assert "as much as it may" in refused.reason
        assert client.ask(Waiting.end, "w", End(), timeout_s=10) == Done()
        assert client.ask(Waiting.wait, "w", Begin(), timeout_s=10) == Ended()
        assert not running.parked()
        assert not running.dead_letters()
