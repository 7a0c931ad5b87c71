"""What became of dead letters: whether each was appended again, and whether its asker was answered."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from repertory.actors.headers import RETRY_OF
from repertory.bridge.addresses import Addresses
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.failed import DeadLetter


class MarkedDeadLetter(msgspec.Struct, frozen=True):
    """A dead letter and its sequel: ``retried`` are the places where it was appended again, oldest first.

    ``answered``: whether its asker got ``Undelivered``, which says that the command is never applied.
    """

    letter: DeadLetter
    retried: tuple[str, ...]
    answered: bool


def marked(reader: Reader, system: SystemDefinition, letters: Sequence[DeadLetter]) -> list[MarkedDeadLetter]:
    """Return what became of dead letters. Reads the commands topics that they came from."""
    addresses = Addresses(system.name, reader.partition_count)
    retries: dict[bytes, list[str]] = {letter.retry_of: [] for letter in letters}
    of_sources = [letter for letter in letters if letter.source_topic not in system.commands_topics()]
    read = set(system.commands_topics())  # A record of a source may have become a command of any entity.
    for topic in read if of_sources else {letter.source_topic for letter in letters} & read:
        for partition in range(reader.partition_count(topic) or 0):
            for record in reader.read(topic, partition, reader.bounds(topic, partition)[0]):
                found = retries.get(record.header(RETRY_OF) or b"")
                if found is not None:
                    found.append(record.place)
    return [MarkedDeadLetter(each, tuple(retries[each.retry_of]), _answered(addresses, each)) for each in letters]


def _answered(addresses: Addresses, letter: DeadLetter) -> bool:
    """Return whether the command had a valid ``reply-to``: then its asker got ``Undelivered``."""
    source = Record(letter.source_topic, -1, -1, None, None, letter.headers, 0)
    try:
        return addresses.sender(addresses.of(source))[0] is not None
    except ValueError:  # DecodeError, or text that is not UTF-8: the shard could not read it either.
        return False
