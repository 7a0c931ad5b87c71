"""The records that a command must have produced, as the model expects them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from repertory.actors.headers import REJECTED
from repertory.actors.message import Sender, Undelivered, wire_name
from repertory.actors.saga.inner import STEP_MARK
from repertory.actors.wire import written_name
from repertory.bridge.log.record import Record


class ExpectedOutput(msgspec.Struct, frozen=True):
    """A record that a command must have produced. A value of None matches any value.

    ``rejected``: it tells a saga that its step was not applied.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    rejected: bool = False


def reply_to(to: Sender, data: bytes | None, *, rejected: bool = False) -> ExpectedOutput:
    """Return the record of an answer."""
    if to.key is None:
        return ExpectedOutput(to.topic, to.correlation_id.encode(), data)
    return ExpectedOutput(to.topic, to.key.encode(), data, rejected and to.about.startswith(STEP_MARK))


def is_undelivered(got: Mapping[int, Record]) -> bool:
    """Return whether the first record says that a message was not applied."""
    return 0 in got and written_name(got[0].value or b"") == wire_name(Undelivered)


def matches(expected: list[ExpectedOutput], got: Mapping[int, Record]) -> bool:
    """Return whether a command's records, by their indexes, are those that are expected."""
    if len(expected) != len(got):
        return False
    for index, output in enumerate(expected):
        record = got.get(index)
        if record is None or record.topic != output.topic or record.key != output.key:
            return False
        if output.value is not None and record.value != output.value:
            return False
        if output.rejected != (record.header(REJECTED) is not None):
            return False
    return True
