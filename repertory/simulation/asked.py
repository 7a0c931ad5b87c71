"""The asks with an id of one shard, as they are in the log: each id is decided once, and its answers are equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from repertory.actors.message import ClockAhead, IdConflict, TooOld, wire_name
from repertory.actors.shard.answers import ParsedId
from repertory.actors.shard.changelog import AGAIN_INDEX, RETRY_INDEX
from repertory.actors.shard.identity import key_in
from repertory.actors.shard.mailbox import Delivery
from repertory.actors.wire import written_name
from repertory.bridge.log.record import Record
from repertory.simulation.virtual import Violation

#: Answers to an ask that say nothing about its command, but about its id.
REFUSALS = frozenset({wire_name(IdConflict), wire_name(ClockAhead), wire_name(TooOld)})


class AskedIds:
    """Owned by the model of one shard; ``wrong`` makes a violation of a rule by the command at an offset."""

    def __init__(self, wrong: Callable[[str, int, str], Violation]) -> None:
        self._wrong = wrong
        #: The first command of each id, by the entity's key and the id; who asked for it, by address.
        self._first: dict[tuple[str, ParsedId], int] = {}
        self._askers: dict[tuple[str, bytes], tuple[str, ParsedId]] = {}
        self._answers: dict[tuple[str, ParsedId], bytes | None] = {}

    def take(
        self, delivery: Delivery, got: Mapping[int, Record], *, stashed: bool, refused: bool
    ) -> Mapping[int, Record] | None:
        """Return the outputs of a command without the answers that it gave again; None if it was not decided.

        ``refused``: the log has refused an output of it for good. An answer about an id is dropped then.
        """
        own = {index: record for index, record in got.items() if not AGAIN_INDEX <= index < RETRY_INDEX}
        sender, key = delivery.sender, key_in(delivery)
        if sender is None or not sender.ask or key is None:
            self._note(got)
            return own
        place = key, ParsedId.parse(sender.ask)
        first = self._first.get(place)
        if first is None and not own and not stashed and (got or refused):
            self._refused(delivery, got)
            return None
        self._askers[f"{sender.topic}/{sender.partition}", sender.correlation_id.encode()] = place
        self._note(got)
        if first is None:
            self._first[place] = delivery.offset
            return own
        if own or stashed:
            what = f"is decided, but {first} has the same id {sender.ask}"
            raise self._wrong("an id is decided once", delivery.offset, what)
        return None

    def ended(self, key: str, offset: int) -> None:
        """Check that no id of a key is open: its life has ended with the command at ``offset``."""
        for place, first in self._first.items():
            if place[0] == key and place not in self._answers:
                raise self._wrong("what is kept ends with its entity", offset, f"stops, and {first} has no answer")

    def _refused(self, delivery: Delivery, got: Mapping[int, Record]) -> None:
        names = {written_name(record.value or b"") for record in got.values()}
        if not names <= REFUSALS:
            raise self._wrong("an unknown id is decided or refused", delivery.offset, f"was answered {names}")

    def _note(self, got: Mapping[int, Record]) -> None:
        """Compare the answers among some outputs with those that their askers' ids have had before."""
        for index, record in got.items():
            address = f"{record.topic}/{record.partition}", record.key or b""
            place = self._askers.get(address)
            if place is None or index == RETRY_INDEX or written_name(record.value or b"") in REFUSALS:
                continue
            if self._answers.setdefault(place, record.value) != record.value:
                offset = self._first[place]
                raise self._wrong("an id has one answer", offset, f"was answered {record.value!r} at {record.place}")
