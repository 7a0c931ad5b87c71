"""``Ahead``: the urgent commands that a shard handles before commands for which its stash has no room. Pure.

A shard whose stash is full stops at the first command without room. The request to cancel the saga whose
commands fill the stash may be behind that one, so it is taken from there. It overtakes only commands that would be
stashed if there were room, as it does when it is taken in its turn; so nothing of a key without a stash is overtaken.
Each shard record holds the offsets of what was handled, until its ``next`` is beyond them: none is handled twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from repertory.actors.control import RevokeAsk
from repertory.actors.entity import Behaviour
from repertory.actors.message import Envelope
from repertory.actors.shard.mailbox import Mailbox
from repertory.actors.shard.stash import Stash

#: How many may be handled before their turn at a time; each shard record names them all.
AHEAD_MAX = 1_000


class Ahead:
    """Mutable; owned by the intake, with whose shard it shares the mailbox and the stash."""

    __slots__ = ("_mailbox", "_starts", "_stash", "_urgent", "offsets")

    def __init__(self, behaviour: Behaviour, mailbox: Mailbox, stash: Stash, offsets: Iterable[int]) -> None:
        self._urgent, self._starts, self._mailbox, self._stash = behaviour.urgent, behaviour.starts, mailbox, stash
        #: The commands that were handled before their turn. Who takes one of them takes it out.
        self.offsets = {*offsets}

    def first(self) -> Envelope | None:
        """Return the first urgent command of the mailbox whose key is in the stash; None if none is.

        A revoke waits for its turn if the ask that it takes back does, and so does what concerns a saga that has not
        begun if another start of it does.
        """
        if not self._urgent or len(self.offsets) >= AHEAD_MAX:
            return None
        asks, started = set[tuple[str, str, str | None, str]](), set[str]()
        for each in self._mailbox:
            if not isinstance(each, Envelope) or each.key not in self._stash:
                continue
            sender, message = each.sender, each.message
            if type(message) not in self._urgent:
                if sender is not None:
                    asks.add((each.key, sender.topic, sender.key, sender.about))
                if type(message) in self._starts and self._waits_to_begin(each.key):
                    started.add(each.key)
            elif each.offset not in self.offsets and each.key not in started:
                if not isinstance(message, RevokeAsk) or sender is None:
                    return each
                if (each.key, sender.topic, sender.key, message.about) not in asks:
                    return each
        return None

    def _waits_to_begin(self, key: str) -> bool:
        return type(self._stash.queue(key)[0].envelope.message) in self._starts

    def since(self, next_offset: int) -> tuple[int, ...]:
        """Return what a shard record says about commands from ``next_offset`` on."""
        return tuple(sorted(each for each in self.offsets if each >= next_offset))
