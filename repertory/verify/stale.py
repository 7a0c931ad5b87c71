"""``StaleCommands``: the commands of timers that were cancelled or replaced, as far as a log shows it."""

from __future__ import annotations

from collections.abc import Callable

from repertory.actors.message import Envelope, Undecodable
from repertory.actors.shard.identity import key_in
from repertory.verify.again import Subject
from repertory.verify.owed import Owed


class StaleCommands:
    """Of one shard between two commands."""

    def __init__(self, subject: Subject, owed: Owed, is_known: Callable[[str | None, int], bool]) -> None:
        """``is_known``: see ``verify.later``."""
        self._subject, self._owed, self._is_known = subject, owed, is_known

    def is_surely(self, delivery: Envelope | Undecodable) -> bool:
        """Return whether a timer sent this command that says no more that it has fired."""
        timer = delivery.timer
        if timer is None or not self._is_known(key_in(delivery) or "", timer.offset):
            return False
        return self._owed.is_stale(delivery)

    def may_be(self, delivery: Envelope | Undecodable) -> bool:
        """As that; or it was in the stash, and an operator behind it has cancelled its timer meanwhile."""
        timer = delivery.timer
        if timer is None or self.is_surely(delivery):
            return timer is not None
        key = delivery.key.encode() if isinstance(delivery, Envelope) else delivery.key
        cancelled = self._subject.gathered.cancelled.get((self._subject.source, key, timer.name), -1)
        return cancelled > delivery.offset and self._subject.changelog.digest_of(delivery.offset) is not None
