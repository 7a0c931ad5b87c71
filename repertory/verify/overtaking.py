"""The order in which the commands of one shard were applied, where some have overtaken others of their key. Pure.

A request to cancel a saga is handled when it is taken, before the commands of its key that are stashed, or for which
the stash has no room. Which ones those were, the journal says: their events are behind those of the request. A command
without events has changed nothing, so it is not placed here; whoever decides it again may have to do so on a later
state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from repertory.actors.wire import written_name
from repertory.bridge.log.record import Record, TopicPartition

T = TypeVar("T")


class _Overtaken(NamedTuple, Generic[T]):
    place: int
    item: T


class UrgentCommands:
    """The commands of all shards that overtake others, by their names."""

    def __init__(self, names: Mapping[TopicPartition, Collection[str]]) -> None:
        self._names = names
        self._found: dict[TopicPartition, list[tuple[str, int]]] = defaultdict(list)

    def take(self, source: TopicPartition, record: Record) -> None:
        """Note the next command of a shard if it is one."""
        if (names := self._names[source]) and written_name(record.value or b"") in names:
            self._found[source].append(((record.key or b"").decode(errors="backslashreplace"), record.offset))

    def of(self, source: TopicPartition) -> list[tuple[str, int]]:
        """Return the keys and offsets of those of a shard."""
        return self._found[source]


class Overtaking(Generic[T]):
    """Used once. Takes the commands in the order of the log, and returns them in the order of the journal."""

    def __init__(self) -> None:
        #: By key, the commands that overtake: their offsets, and the places of their first events.
        self._urgent: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._waiting: dict[str, list[_Overtaken[T]]] = defaultdict(list)

    def will_overtake(self, key: str, offset: int, place: int) -> None:
        """Note a command that may overtake others; ``place``: the offset of its first event in the journal."""
        self._urgent[key].append((offset, place))

    def next(self, key: str, offset: int, place: int, item: T, *, overtakes: bool) -> list[T]:
        """Take the next command with events; return what is applied now: nothing, or what it waited for, and itself.

        One that does not overtake is behind all that wait, whatever the journal says.
        """
        if any(offset < other and before < place for other, before in self._urgent.get(key, ())):
            self._waiting[key].append(_Overtaken(place, item))
            return []
        return [*self._before(key, place if overtakes else None), item]

    def all_of(self, key: str) -> list[T]:
        """Return those of a key that wait: a command of it that was not stashed is behind them."""
        return self._before(key, None)

    def left(self) -> Iterable[T]:
        """Return those that were overtaken, and that no later command was behind."""
        for waiting in self._waiting.values():
            yield from (each.item for each in waiting)

    def _before(self, key: str, place: int | None) -> list[T]:
        waiting = self._waiting.get(key, [])
        count = 0
        while count < len(waiting) and (place is None or waiting[count].place < place):
            count += 1
        if count:
            self._waiting[key] = waiting[count:]
        return [each.item for each in waiting[:count]]
