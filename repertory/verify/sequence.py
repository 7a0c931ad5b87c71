"""Compare the state records of stateful entities with the states that their commands lead to."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from repertory.actors.entity import Behaviour
from repertory.verify.changelog import Changelog
from repertory.verify.findings import Findings, Place
from repertory.verify.snapshots import same, shown, snapshot_of
from repertory.verify.stash_records import StateEntry


class Sequence:
    """Takes the changes of each entity in order, and removes the state records that they confirm.

    The commands of one transaction share a state record, and compaction may have deleted some records. So the records
    must be a subsequence of the states, and the last record must be the last state.
    """

    def __init__(self, changelog: Changelog, behaviour: Behaviour, findings: Findings) -> None:
        self._changelog, self._behaviour, self._findings = changelog, behaviour, findings
        self._queues = {key: deque(entries) for key, entries in changelog.unconfirmed.items()}

    def changed(self, key: str, before: bytes | None, after: bytes | None) -> None:
        """Add a change of an entity, as encoded states; None means that there is no entity."""
        queue = self._queues.get(key)
        if queue:
            self._confirm(queue, before)
            self._confirm(queue, after)

    def _confirm(self, queue: deque[StateEntry], data: bytes | None) -> None:
        while queue and self._is_state(queue[0], data):
            queue.popleft()

    def _is_state(self, entry: StateEntry, data: bytes | None) -> bool:
        if data is None or not entry.lives:
            return data is None and not entry.lives
        snapshot = snapshot_of(entry)
        return snapshot == data or same(self._behaviour, snapshot, self._behaviour.state_decode(data))

    def finish(self, finals: Mapping[str, bytes], unknown: Collection[str], where: Place) -> None:
        """Record the state records that match no state, and the entities whose last state is in no record."""
        states = self._findings.states
        for key, queue in self._queues.items():
            if key in unknown:
                states.unverifiable += len(queue)
                continue
            self._confirm(queue, finals.get(key))
            if queue:
                held = shown(self._behaviour, snapshot_of(queue[0])) if queue[0].lives else "no entity"
                states.wrong(queue[0].place, f"holds {held}, which none of its commands led to")
        for key in {*finals, *self._queues}.difference(unknown):
            entry, data = self._changelog.latest.get(key), finals.get(key)
            if entry is None or not self._is_state(entry, data):
                place = where._replace(key=key) if entry is None else entry.place
                due = "no entity" if data is None else shown(self._behaviour, data)
                states.wrong(place, f"differs from the state that the key's commands lead to: {due}")
