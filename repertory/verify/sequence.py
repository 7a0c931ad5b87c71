"""The states of a stateful entity: its state records are moments of what its commands make of it, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from repertory.actors.entity import Behaviour
from repertory.verify.changelog import Changelog, StateEntry
from repertory.verify.findings import Findings, Place
from repertory.verify.journal import same, shown, snapshot_of


class Sequence:
    """Is told of each change of an entity, and crosses off the state records that say so.

    Several commands may share a state record (those of one transaction), and compaction may have taken some: the
    records have to be a subsequence of the changes, and the last one the last change.
    """

    def __init__(self, changelog: Changelog, behaviour: Behaviour, findings: Findings) -> None:
        self._changelog, self._behaviour, self._findings = changelog, behaviour, findings
        self._queues = {key: deque(entries) for key, entries in changelog.unconfirmed.items()}

    def changed(self, key: str, before: bytes | None, after: bytes | None) -> None:
        """Take in a change, as encoded states; None is no entity."""
        queue = self._queues.get(key)
        if queue:
            self._cross_off(queue, before)
            self._cross_off(queue, after)

    def _cross_off(self, queue: deque[StateEntry], data: bytes | None) -> None:
        while queue and self._says(queue[0], data):
            queue.popleft()

    def _says(self, entry: StateEntry, data: bytes | None) -> bool:
        if data is None or not entry.lives:
            return data is None and not entry.lives
        snapshot = snapshot_of(entry)
        return snapshot == data or same(self._behaviour, snapshot, self._behaviour.state_decode(data), data)

    def finish(self, finals: Mapping[str, bytes], unknown: Collection[str], where: Place) -> None:
        """Name the records that no change made, and the entities whose last change no record holds."""
        states = self._findings.states
        for key, queue in self._queues.items():
            if key in unknown:
                states.unverifiable += len(queue)
                continue
            self._cross_off(queue, finals.get(key))
            if queue:
                said = shown(self._behaviour, snapshot_of(queue[0])) if queue[0].lives else "that no entity is there"
                states.wrong(queue[0].place, f"says {said}, which its commands never made of it")
        for key in {*finals, *self._queues}.difference(unknown):
            entry, data = self._changelog.latest.get(key), finals.get(key)
            if entry is None or not self._says(entry, data):
                place = where._replace(key=key) if entry is None else entry.place
                due = "no entity" if data is None else shown(self._behaviour, data)
                states.wrong(place, f"is not what the key's commands made of it: {due}")
