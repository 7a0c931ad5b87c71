"""Names foreign members of the group: an application with our ``group.id`` takes shards that nobody then serves.

The group is asked when a worker joins, and after it gave shards to another member; nothing else tells of it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

from confluent_kafka import KafkaException

from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import logger
from repertory.bridge.log.kafka.messages import describe, error_of
from repertory.bridge.log.members import foreign_member, is_foreign
from repertory.bridge.log.port import MemberDescription
from repertory.bridge.text import one_line

#: The group is asked this long after the last revoke: a rebalance may take several, and a broker may be coming back.
CALM_S = 3.0
#: How long a worker that stops waits for a request under way.
CLOSE_WAIT_S = 0.5


class GroupWatch:
    """Warns of each foreign member once. One thread calls it; it asks on another, so that no poll waits."""

    def __init__(self, admin: Admin, group: str, subscriptions: Collection[str]) -> None:
        self._admin, self._group, self._subscriptions = admin, group, subscriptions
        self._due_s: float | None = None
        self._asking: threading.Thread | None = None
        self._answer: list[MemberDescription] = []
        self._said: set[tuple[str, str, str]] = set()

    def check(self, members: Iterable[MemberDescription]) -> None:
        """Warn of the foreign ones among the members of the group."""
        for member in members:
            name = (member.instance_id, member.client, member.host)
            if is_foreign(member, self._group, self._subscriptions) and name not in self._said:
                self._said.add(name)
                logger.warning("%s", one_line(foreign_member(member, self._group)))

    def revoked(self, now_s: float) -> None:
        """Another member got shards of ours: ask soon who that is."""
        self._due_s = now_s + CALM_S

    def tick(self, now_s: float) -> None:
        """Ask if it is time, and take an answer."""
        if self._asking is not None and not self._asking.is_alive():
            self._asking = None
            self.check(self._answer)
        if self._due_s is not None and now_s >= self._due_s and self._asking is None:
            self._due_s = None
            self._asking = threading.Thread(target=self._ask, name="group-watch", daemon=True)
            self._asking.start()

    def close(self) -> None:
        """Wait a little for a request under way."""
        if self._asking is not None:
            self._asking.join(CLOSE_WAIT_S)

    def _ask(self) -> None:
        try:
            self._answer = self._admin.members(self._group)
        except KafkaException as failure:
            logger.info("the members of %s are not known: %s", self._group, describe(error_of(failure)))
