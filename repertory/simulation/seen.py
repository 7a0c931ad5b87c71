"""``Seen``: what a model is given of one shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from repertory.actors.control import cancel_of
from repertory.actors.headers import ERROR_MESSAGE, ERROR_TYPE
from repertory.actors.shard.changelog import SHARD_KEY, StashedRecord
from repertory.bridge.changelog_codec import decode_shard
from repertory.bridge.log.record import Record


class Seen(msgspec.Struct, frozen=True):
    """One shard as it is in the log: its commands up to ``next``, the outputs of each, and the stash, by offset."""

    partition: int
    next: int
    #: The commands from there on that were handled before their turn.
    ahead: frozenset[int]
    commands: list[Record]
    outputs: Mapping[int, Mapping[int, Record]]
    stash: Mapping[int, StashedRecord]
    #: The commands whose handlers were made to fail, or whose outputs were refused.
    raised: frozenset[int]
    #: The commands whose outputs were refused.
    refused: frozenset[int]
    #: The commands that crashed so many processes that they may be dead-lettered.
    deadly: frozenset[int]
    #: The commands that have cancelled starts of sagas, which are dead letters.
    dropping: frozenset[int | None]
    #: Whether a command is dead-lettered if the stash is full.
    overflows: bool
    #: The most bytes that an output may have.
    output_bytes_max: int


def dropping_of(outputs: Mapping[int, Mapping[int, Record]]) -> frozenset[int | None]:
    """Return the commands that have cancelled starts of sagas."""
    headers = [dict(each[0].headers) for each in outputs.values() if 0 in each]
    return frozenset(
        cancel_of(*(found.get(name, b"").decode() for name in (ERROR_TYPE, ERROR_MESSAGE))) for found in headers
    )


def ahead_of(changelog: Iterable[Record]) -> frozenset[int]:
    """Return the commands that a shard has handled before their turn, as its last record says."""
    last = None
    for record in changelog:
        last = record if record.key == SHARD_KEY else last
    return frozenset() if last is None else frozenset(decode_shard(last.value or b"").ahead)
