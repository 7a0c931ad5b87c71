"""How a retry ended, as its operator reads it from the replies topic; if it has not ended, what it waits for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import msgspec

from repertory.actors.control import RetryEnded
from repertory.actors.headers import CORRELATION_ID, MESSAGE_ID, REPLY_TO, Header, Headers
from repertory.actors.message import Done, Message, Undelivered
from repertory.actors.saga.messages import NoSuchSaga, NotStuck, TooLate
from repertory.actors.wire import DecodeError, MessageDecoder
from repertory.bridge import topics
from repertory.bridge.log.port import Reader

_decode = MessageDecoder([Done, Undelivered, RetryEnded, TooLate, NotStuck, NoSuchSaga]).decode

#: An operator reads this partition of the replies topic.
_PARTITION = 0
WAITING, IGNORED = "waiting", "ignored"


class RetryOutcome(msgspec.Struct, frozen=True):
    """How a retry ended. ``what``: applied, rejected, parked, dead-lettered, dropped, waiting or ignored.

    ``reply``: the encoded answer of the handler, b"" if it gave none. ``why``: the error of a command that is parked or
    dead-lettered again, and what a command that still waits is waiting for.
    """

    what: str
    why: str = ""
    reply: bytes = b""

    @property
    def is_handled(self) -> bool:
        """Whether the command is applied or rejected now."""
        return self.what in ("applied", "rejected")


class Answers:
    """The answers to one request of an operator. Created before the request is sent; for one thread."""

    def __init__(self, reader: Reader, system: str) -> None:
        self._reader, self._topic = reader, topics.replies_topic(system)
        self._correlation_id = uuid.uuid4().hex
        _, self._position = reader.bounds(self._topic, _PARTITION)

    @property
    def headers(self) -> Headers:
        """The headers of a control command that is answered here."""
        found = self._correlation_id.encode()
        return ((MESSAGE_ID, found), (CORRELATION_ID, found), (REPLY_TO, f"{self._topic}/{_PARTITION}".encode()))

    def header(self, name: str) -> Header:
        """Return the header of a command that is no ask, and whose outcome is answered here."""
        return name, f"{self._topic}/{_PARTITION}/{self._correlation_id}".encode()

    def follow(self, deadline_s: float) -> Iterator[Message]:
        """Yield the answers until the deadline (of ``time.monotonic``): `Done` for the request, then `RetryEnded`.

        A saga may also refuse a request: with `TooLate`, `NotStuck` or `NoSuchSaga`.

        Raises LookupError if the request itself became a dead letter.
        """
        while (left_s := deadline_s - time.monotonic()) > 0:
            for record in self._reader.follow(self._topic, {_PARTITION: self._position}, left_s):
                self._position = record.offset + 1
                match self._mine(record.header(CORRELATION_ID), record.value):
                    case None:
                        pass
                    case Undelivered(reason=reason):
                        raise LookupError(f"the request was not executed: {reason}")
                    case found:
                        yield found
                if time.monotonic() > deadline_s:
                    return

    def ended(self) -> RetryEnded | None:
        """Return the outcome if it is committed already."""
        for record in self._reader.read(self._topic, _PARTITION, self._position):
            found = self._mine(record.header(CORRELATION_ID), record.value)
            if isinstance(found, RetryEnded):
                return found
        return None

    def _mine(self, correlation_id: bytes | None, value: bytes | None) -> Message | None:
        """Return an answer to this request. Anybody may write here: what is no answer is not one."""
        if correlation_id != self._correlation_id.encode():
            return None
        try:
            found: Message = _decode(value or b"")
        except DecodeError:
            return None
        return found


def outcome_of(ended: RetryEnded) -> RetryOutcome:
    """Return the outcome that a shard has answered."""
    return RetryOutcome(ended.outcome, f"{ended.error}: {ended.reason}" if ended.error else "", ended.reply)
