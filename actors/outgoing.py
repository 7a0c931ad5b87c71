"""Encodes what leaves an entity, and refuses what does not fit into a record or cannot be decoded again. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec

from repertory.actors.context import ContractViolation, OutputTooLarge
from repertory.actors.message import Message
from repertory.actors.wire import DEPTH_MAX, DecodeError, check_depth, encode

#: Bytes of a record beside its message: key (255), headers (under 700), the fields of a state record.
RECORD_OVERHEAD_BYTES = 1_024


def sendable(message: Message, bytes_max: int) -> bytes:
    """Return an encoded message that its receiver can decode: otherwise an asker would wait for ever."""
    data = encoded(message, bytes_max)
    try:
        _decoder(type(message))(data)
    except msgspec.DecodeError as error:
        raise ContractViolation(f"{type(message).__name__} could not be decoded by its receiver: {error}") from error
    return data


def encoded(message: Message, bytes_max: int) -> bytes:
    """Return an encoded message that fits into a record and does not nest too deep for a decoder."""
    data = encode(message)
    if len(data) > DEPTH_MAX:  # Most messages are shorter, and so neither too large nor too deep.
        check_encoding(message, data, bytes_max)
    return data


def check_encoding(message: Message, data: bytes, bytes_max: int) -> None:
    """Raise OutputTooLarge or ContractViolation for an encoding that is too large or nests too deep."""
    check_size(type(message).__name__, len(data), bytes_max)
    try:
        check_depth(data)
    except DecodeError as error:
        raise ContractViolation(f"{type(message).__name__} is {error}") from error


def check_size(what: str, size_bytes: int, bytes_max: int) -> None:
    """Raise OutputTooLarge for a message of so many bytes."""
    if size_bytes > bytes_max - RECORD_OVERHEAD_BYTES:
        raise OutputTooLarge(
            f"{what} takes {size_bytes} bytes; output_bytes_max is {bytes_max}, of which "
            f"{RECORD_OVERHEAD_BYTES} are for key and headers"
        )


@cache
def _decoder(message_type: type[Message]) -> Callable[[bytes], Message]:
    return msgspec.msgpack.Decoder(message_type).decode
