"""What a change of messages takes, as ``docs/limits.rst`` says: new code reads what older code wrote, or refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from repertory import ActorSystem, Command, Entity, Event, command, event
from repertory.actors.wire import DecodeError
from repertory.bridge.log.errors import TopicMismatch


def old_code() -> type[Entity]:
    """Return the entity that writes the log."""

    class Pay(Command):
        amount: int
        note: str = ""

    class Paid(Event):
        amount: int
        note: str = ""

    class Till(Entity):
        total: int = 0
        last: str = ""

        @command
        def pay(self, cmd: Pay) -> Paid:
            return Paid(amount=cmd.amount, note=cmd.note)

        @event
        def paid(self, evt: Paid) -> Self:
            return self.replace(total=self.total + evt.amount, last=evt.note)

    return Till


def renamed() -> type[Entity]:
    """Return one in which everything has another name in the code, and the same in records."""

    class PayIn(Command, name="Pay"):
        cents: int = msgspec.field(name="amount")
        note: str = ""

    class Settled(Event, name="Paid"):
        cents: int = msgspec.field(name="amount")
        note: str = ""

    class Register(Entity, name="Till"):
        total: int = 0
        final: str = msgspec.field(name="last", default="")

        @command
        def pay(self, cmd: PayIn) -> Settled:
            return Settled(cents=cmd.cents, note=cmd.note)

        @event
        def paid(self, evt: Settled) -> Self:
            return self.replace(total=self.total + evt.cents, final=evt.note)

    return Register


def grown() -> type[Entity]:
    """Return one with new fields, a wider type, and a command that lost one."""

    class Pay(Command):
        amount: int

    class Paid(Event):
        amount: float
        note: str = ""
        currency: str = "EUR"

    class Till(Entity):
        total: float = 0
        last: str = ""
        currency: str = ""

        @command
        def pay(self, cmd: Pay) -> Paid:
            return Paid(amount=cmd.amount)

        @event
        def paid(self, evt: Paid) -> Self:
            return self.replace(total=self.total + evt.amount, last=evt.note, currency=evt.currency)

    return Till


def without_a_field() -> type[Entity]:
    """Return one whose event has lost a field."""

    class Pay(Command):
        amount: int

    class Paid(Event):
        amount: int

    class Till(Entity):
        total: int = 0
        last: str = ""

        @command
        def pay(self, cmd: Pay) -> Paid:
            return Paid(amount=cmd.amount)

        @event
        def paid(self, evt: Paid) -> Self:
            return self.replace(total=self.total + evt.amount)

    return Till


def without_an_event() -> type[Entity]:
    """Return one that has forgotten an event."""

    class Pay(Command):
        amount: int

    class Received(Event):
        amount: int

    class Till(Entity):
        total: int = 0
        last: str = ""

        @command
        def pay(self, cmd: Pay) -> Received:
            return Received(amount=cmd.amount)

        @event
        def received(self, evt: Received) -> Self:
            return self.replace(total=self.total + evt.amount)

    return Till


def paid(url: str, entity: type[Entity], **fields: Any) -> Entity | None:
    """Pay 2 with an entity's code, and return its state."""
    system = ActorSystem("shop")
    system.host(entity, partitions=1)
    handler = vars(entity)["pay"]
    with system.start(url) as running:
        running.client.tell(
            handler, "t-1", msgspec.convert({"type": "Pay", "amount": 2, **fields}, handler.message_types[0])
        )
        running.settle(5.0)
        return running.state(entity, "t-1")


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (renamed, {"type": "Till", "total": 4, "last": "new"}),
        (grown, {"type": "Till", "total": 4.0, "last": "", "currency": "EUR"}),
    ],
)
def test_new_code_goes_on_from_what_older_code_wrote(tmp_path: Path, code: Any, state: dict[str, Any]) -> None:
    """Another name in the code, a new field with a default, a wider type, a command without a field."""
    url = f"sqlite:{tmp_path}/till.db"
    paid(url, old_code(), note="old")
    assert msgspec.to_builtins(paid(url, code(), note="new")) == state


@pytest.mark.parametrize(
    ("code", "words"), [(without_a_field, "Paid has no field 'note'"), (without_an_event, "unknown type 'Paid'")]
)
def test_new_code_that_would_lose_something_stops_at_its_record(tmp_path: Path, code: Any, words: str) -> None:
    """The shard writes nothing, and the code that wrote the record goes on as if nothing had been."""
    url = f"sqlite:{tmp_path}/till.db"
    paid(url, old_code(), note="old")
    system = ActorSystem("shop")
    system.host(code(), partitions=1)
    (entity,) = system.hosted
    with system.start(url) as running:
        running.tick()
        with pytest.raises(DecodeError, match=rf"shop\.till\.events/0@0 cannot .*{words}"):
            running.state(entity, "t-1")
    assert msgspec.to_builtins(paid(url, old_code(), note="again")) == {"type": "Till", "total": 4, "last": "again"}


def test_another_number_of_partitions_is_refused_at_the_start(tmp_path: Path) -> None:
    """Keys would be looked for on other shards than those that have them."""
    url = f"sqlite:{tmp_path}/till.db"
    paid(url, old_code())
    system = ActorSystem("shop")
    system.host(old_code(), partitions=2)
    with pytest.raises(TopicMismatch, match="the system declares 2"):
        system.start(url)
