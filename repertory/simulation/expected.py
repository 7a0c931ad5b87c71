"""The records that a command must have produced, as the model expects them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from repertory.actors.message import Sender, Undelivered, wire_name
from repertory.actors.wire import written_name
from repertory.bridge.log.record import Record


class ExpectedOutput(msgspec.Struct, frozen=True):
    """A record that a command must have produced. A value of None matches any value."""

    topic: str
    key: bytes | None
    value: bytes | None


def reply_to(to: Sender, data: bytes | None) -> ExpectedOutput:
    """Return the record of an answer."""
    return ExpectedOutput(to.topic, to.correlation_id.encode() if to.key is None else to.key.encode(), data)


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
    return True
