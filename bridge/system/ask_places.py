"""Where the messages are that sagas wait for the answers of: stashed or parked at their receivers, or under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from repertory.actors.headers import ABOUT, REPLY_KEY, REPLY_TO
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import StashedRecord
from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.system.committed import Skip, stashed_commands
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.open_effects import OpenEffect, effects_on


class AskPlace(msgspec.Struct, frozen=True):
    """An ask that is stashed at its receiver, or an effect. ``parked``: nothing happens until an operator acts.

    ``address``: ``partition@offset`` of the ask, ``partition@offset/index`` of an effect. ``first``: the offset of the
    first stashed command of the key, which may be the ask itself; ``error`` and ``reason`` are those of its failure.
    ``at_ms`` (epoch): when the ask was appended, 0 for an effect.
    """

    address: str
    parked: bool
    attempt: int
    first: int = -1
    error: str = ""
    reason: str = ""
    at_ms: int = 0

    @property
    def text(self) -> str:
        """The same for people."""
        failed = f": {self.error}: {self.reason}" if self.error else ""
        if self.first < 0:
            return f"effect {self.address} {'is parked' if self.parked else f'is at attempt {self.attempt}'}{failed}"
        if self.address.endswith(f"@{self.first}"):
            if self.parked:
                return f"is parked as {self.address}{failed}"
            return f"is stashed as {self.address}, attempt {self.attempt} follows{failed}"
        then = "which is parked" if self.parked else f"of which attempt {self.attempt} follows"
        return f"is stashed as {self.address} behind command {self.first}, {then}{failed}"


class _Stash:
    """The stash of a shard: the first command of each key, and the asks of entities by who waits for which answer."""

    def __init__(self, commands: Iterable[tuple[int, StashedRecord]]) -> None:
        self.firsts: dict[str, tuple[int, StashedRecord]] = {}
        self.asks: dict[tuple[str, bytes | None, bytes | None, bytes], int] = {}
        self._times_ms: dict[int, int] = {}
        for offset, record in commands:
            self.firsts.setdefault(record.key, (offset, record))
            self._times_ms[offset] = record.timestamp_ms
            headers = dict(record.headers)
            if REPLY_KEY in headers:
                asker = headers.get(REPLY_TO), headers[REPLY_KEY], headers.get(ABOUT, b"")
                self.asks[(record.key, *asker)] = offset

    def place(self, partition: int, key: str, offset: int) -> AskPlace:
        """Return where the command ``offset`` of a key is."""
        first_offset, first = self.firsts[key]
        return AskPlace(
            f"{partition}@{offset}", first.parked, first.attempt, first_offset, first.error, first.reason,
            self._times_ms[offset],
        )  # fmt: skip


class AskPlaces:
    """Reads the stash and the effects of each shard once, when they are asked for. For one thread."""

    def __init__(self, reader: Reader, system: SystemDefinition, skip: Skip = None) -> None:
        self._reader, self._system, self._skip = reader, system, skip
        self._hosted = {each.behaviour.name: each for each in system.hosted.values()}
        self._stashes: dict[tuple[str, int], _Stash] = {}
        self._effects: dict[tuple[str, int], dict[tuple[str, str], OpenEffect]] = {}

    def ask(self, asker: str, asker_key: str, about: str, receiver: str, key: str) -> AskPlace | None:
        """Return where an ask is, if it is stashed; None if it is on its way, or its receiver has kept the sender."""
        if (hosted := self._hosted.get(receiver)) is None:
            return None
        partition = partition_of(key.encode(), hosted.partitions)
        stash = self._stash(receiver, partition)
        topic = topics.commands_topic(self._system.name, asker).encode()
        offset = stash.asks.get((key, topic, asker_key.encode(), about.encode()))
        return None if offset is None else stash.place(partition, key, offset)

    def first(self, entity: str, partition: int, key: str) -> AskPlace | None:
        """Return where the first stashed command of a key is, None if it has none."""
        stash = self._stash(entity, partition)
        found = stash.firsts.get(key)
        return None if found is None else stash.place(partition, key, found[0])

    def keys(self, entity: str, partition: int) -> Iterable[str]:
        """Return the keys of a shard that have stashed commands."""
        return self._stash(entity, partition).firsts.keys()

    def effect(self, asker: str, partition: int, key: str, about: str) -> AskPlace | None:
        """Return how an effect is; None if it is settled, and its result under way."""
        place = asker, partition
        if place not in self._effects:
            found = effects_on(self._reader, self._system, self._hosted[asker], partition, skip=self._skip)
            self._effects[place] = {(each.key, each.record.about): each for each in found}
        if (effect := self._effects[place].get((key, about))) is None:
            return None
        record = effect.record
        return AskPlace(effect.address, record.parked, record.attempt, error=record.error, reason=record.reason)

    def askers(self) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
        """Yield entity and key of each asker of a stashed command, and of its receiver."""
        prefix, suffix = f"{self._system.name}.", ".commands"
        for name, hosted in self._hosted.items():
            for partition in range(hosted.partitions):
                for key, topic, asker_key, _ in self._stash(name, partition).asks:
                    asker = (topic or b"").decode("utf-8", "replace").removeprefix(prefix).removesuffix(suffix)
                    yield (asker, (asker_key or b"").decode("utf-8", "replace")), (name, key)

    def _stash(self, entity: str, partition: int) -> _Stash:
        place = entity, partition
        if place not in self._stashes:
            behaviour = self._hosted[entity].behaviour
            found = stashed_commands(self._reader, self._system, behaviour, partition, skip=self._skip)
            self._stashes[place] = _Stash(found)
        return self._stashes[place]
