"""The epochs of each shard's owners: which commands it can have dropped, and which outputs can be its own.

And, in the same topic, the messages that it remembers in order to drop them when they come again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from repertory.actors.headers import Headers
from repertory.actors.shard.changelog import SEEN_KEY, SHARD_KEY, SeenRecord
from repertory.actors.wire import DecodeError
from repertory.bridge.changelog_codec import decode_seen, decode_shard
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record, TopicPartition
from repertory.verify.headers import epoch_of_output


class Epochs(NamedTuple):
    """The ``last`` epoch of a shard's owners, 0 if it never had one; and from which command on it drops repetitions.

    If compaction has deleted the shard record that began the first epoch, ``since`` is 0, and it is only known that
    repetitions from ``surely_since`` on are dropped.
    """

    last: int
    since: int
    surely_since: int
    #: Of the last shard record, and the state topic with its seen records: the messages of the commands below ``seen``.
    seen: int = 0
    state: str = ""
    recorded: Mapping[str, SeenRecord] = {}


class OwnerEpochs:
    """Reads the state topic of a shard when it is first asked for: only commands that name an epoch need it."""

    def __init__(self, reader: Reader, hosted: Mapping[TopicPartition, HostedEntity]) -> None:
        self._reader, self._hosted = reader, hosted
        self._known: dict[TopicPartition, Epochs] = {}

    def of(self, source: TopicPartition) -> Epochs:
        """Return the epochs of a shard."""
        if source not in self._known:
            state = self._hosted[source].codec.state
            self._known[source] = _epochs(self._reader.read(state, source.partition))._replace(state=state)
        return self._known[source]

    def fit(self, source: TopicPartition, headers: Headers) -> bool:
        """Whether a shard can have written the epoch that ends these headers, or their lack of one.

        Without an epoch they always fit: a shard that has one now may have had none.
        """
        epoch = epoch_of_output(headers)
        return epoch == 0 or source not in self._hosted or 0 < epoch <= self.of(source).last


def _epochs(state: Iterable[Record]) -> Epochs:
    """Return the epochs of a shard from the records of its state topic; records that cannot be decoded are skipped."""
    before, found, recorded = None, Epochs(0, 0, 0), dict[str, SeenRecord]()
    for record in state:
        key, value = record.key or b"", record.value or b""
        try:
            if key.startswith(SEEN_KEY):
                recorded[key.removeprefix(SEEN_KEY).decode("utf-8", "replace")] = decode_seen(value)
            if key != SHARD_KEY:
                continue
            shard = decode_shard(value)
        except DecodeError:
            continue
        if shard.epoch and not found.last:
            is_first = before is not None or shard.changelog == 1
            found = Epochs(shard.epoch, shard.next if is_first else 0, shard.next)
        before, found = shard, found._replace(last=shard.epoch, seen=shard.seen)
    return found._replace(recorded=recorded)
