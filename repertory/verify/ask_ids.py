"""The ids of asks, as far as a shard goes by them."""

from __future__ import annotations

from collections.abc import Mapping

from repertory.actors.headers import ASK_ID, value
from repertory.actors.message import Envelope
from repertory.actors.shard.answers import ParsedId
from repertory.actors.shard.identity import key_in
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record, TopicPartition


class AskIds:
    """Reads the ids of commands. It has no mutable state."""

    def __init__(self, sources: Mapping[TopicPartition, HostedEntity]) -> None:
        self._sources = sources

    def of(self, record: Record) -> int | None:
        """Return a hash of a command's shard, key and id; None if it is no ask with an id.

        Queries and requests to the shard are answered each time, and so is what no entity can take, since its key is
        none: their ids mean nothing.
        """
        if value(record.headers, ASK_ID) is None:
            return None
        hosted = self._sources[TopicPartition(record.topic, record.partition)]
        delivery = hosted.codec.decode(record)
        if delivery.sender is None or not delivery.sender.ask or key_in(delivery) is None:
            return None
        if isinstance(delivery, Envelope) and type(delivery.message) not in hosted.behaviour.handlers:
            return None
        return hash((record.topic, record.partition, record.key, ParsedId.parse(delivery.sender.ask)))
