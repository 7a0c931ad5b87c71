"""``Seen``: what a model is given of one shard."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from repertory.actors.shard.changelog import StashedRecord
from repertory.bridge.log.record import Record


class Seen(msgspec.Struct, frozen=True):
    """One shard as it is in the log: its commands up to ``next``, the outputs of each, and the stash, by offset."""

    partition: int
    next: int
    commands: list[Record]
    outputs: Mapping[int, Mapping[int, Record]]
    stash: Mapping[int, StashedRecord]
    #: The commands whose handlers were made to fail, or whose outputs were refused.
    raised: frozenset[int]
    #: The commands whose outputs were refused.
    refused: frozenset[int]
    #: The commands that crashed so many processes that they may be dead-lettered.
    deadly: frozenset[int]
    #: Whether a command is dead-lettered if the stash is full.
    overflows: bool
    #: The most bytes that an output may have.
    output_bytes_max: int
