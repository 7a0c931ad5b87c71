"""Histories in an application's repository: written once by the build of the day, and read by every later one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

import pytest

from repertory import ActorSystem, Command, Entity, Event, Raw, command, event, upcast
from repertory.actors import evolution
from repertory.testing import golden


class FirstPay(Command, name="Pay"):
    """Pay in whole euros."""

    euros: int


class FirstPaid(Event, name="Paid"):
    """Paid in whole euros."""

    euros: int


class FirstTill(Entity, name="Till"):
    """Counts euros."""

    euros: int = 0

    @command
    def pay(self, cmd: FirstPay) -> FirstPaid:
        """Pay."""
        return FirstPaid(euros=cmd.euros)

    @event
    def paid(self, evt: FirstPaid) -> Self:
        """Count."""
        return self.replace(euros=self.euros + evt.euros)


class Pay(Command, version=2):
    """Pay in cents."""

    cents: int


class Paid(Event, version=2):
    """Paid in cents."""

    cents: int


class Till(Entity, version=2):
    """Counts cents."""

    cents: int = 0

    @command
    def pay(self, cmd: Pay) -> Paid:
        """Pay."""
        return Paid(cents=cmd.cents)

    @event
    def paid(self, evt: Paid) -> Self:
        """Count."""
        return self.replace(cents=self.cents + evt.cents)


class Shelf(Entity):
    """Stateful."""

    euros: int = 0

    @command
    def put(self, cmd: FirstPay) -> Self:
        """Count."""
        return self.replace(euros=self.euros + cmd.euros)


def system_of(*entities: type[Entity]) -> ActorSystem:
    """Return a build."""
    system = ActorSystem("shop")
    for entity in entities:
        system.host(entity, partitions=2)
    return system


def in_cents(raw: Raw) -> Raw:
    """Upcast each of them."""
    return {"cents": raw["euros"] * 100}


@pytest.fixture(autouse=True)
def _steps_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the upcasters of one test out of the others."""
    monkeypatch.setattr(evolution, "_steps", {})


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Return a folder with the history of a till that the first build wrote."""
    url, folder = f"sqlite:{tmp_path}/shop.db", tmp_path / "golden"
    system = system_of(FirstTill)
    with system.start(url) as running:
        for euros in range(5):
            running.client.tell(FirstTill.pay, "t/1", FirstPay(euros=euros))
        running.settle()
    (path,) = golden.record(system, url, folder, (FirstTill, "t/1"))
    assert path.name == "till-t_1.json"
    assert golden.check(system, folder) == 1
    with pytest.raises(FileExistsError, match="is never written again"):
        golden.record(system, url, folder, (FirstTill, "t/1"))
    with pytest.raises(LookupError, match="there is nothing of FirstTill 'other'"):
        golden.record(system, url, folder, (FirstTill, "other"))
    return folder


def failures(system: ActorSystem, folder: Path) -> str:
    """Return what a build cannot do with the histories."""
    with pytest.raises(AssertionError) as raised:
        golden.check(system, folder)
    return str(raised.value)


def test_a_later_build_folds_an_older_history(kept: Path) -> None:
    """With an upcaster for each: the state that was recorded is read as the events lead to it."""
    for name in ("Pay", "Paid", "Till"):
        upcast(name, to=2)(in_cents)
    assert golden.check(system_of(Till), kept) == 1


def test_a_missing_upcaster_is_named(kept: Path) -> None:
    """With the message as it was written."""
    upcast("Pay", to=2)(in_cents)
    upcast("Till", to=2)(in_cents)
    said = failures(system_of(Till), kept)
    assert re.search(r"till-t_1\.json: event 0, .*'euros': 0.* cannot be folded: .*@upcast\('Paid', to=2\)", said)
    evolution._steps.clear()
    said = failures(system_of(Till), kept)
    assert "command 4, {'type': 'Pay', 'euros': 4}, cannot be read" in said


def test_an_upcaster_of_the_state_that_contradicts_those_of_its_events(kept: Path) -> None:
    """A snapshot of the day would be restored to another state than its journal."""
    upcast("Pay", to=2)(in_cents)
    upcast("Paid", to=2)(in_cents)
    upcast("Till", to=2)(lambda raw: {"cents": raw["euros"]})
    assert "its events lead to Till(cents=1000), and the recorded state is Till(cents=10)" in failures(
        system_of(Till), kept
    )


def test_what_is_no_history(kept: Path, tmp_path: Path) -> None:
    """A folder without any, a file of something else, an entity that is gone."""
    with pytest.raises(FileNotFoundError, match="holds no history"):
        golden.check(system_of(FirstTill), tmp_path / "empty")
    assert "hosts no entity 'till'" in failures(system_of(Shelf), kept)
    (kept / "note.json").write_text("{}")
    assert "note.json: Object missing required field `entity`" in failures(system_of(FirstTill), kept)


def test_a_stateful_entity_keeps_its_commands_and_its_last_state(tmp_path: Path) -> None:
    """Whose history is not in the log."""
    url, folder, system = f"sqlite:{tmp_path}/shop.db", tmp_path / "golden", system_of(Shelf)
    with system.start(url) as running:
        running.client.tell(Shelf.put, "s-1", FirstPay(euros=3))
        running.settle()
    golden.record(system, url, folder, (Shelf, "s-1"))
    assert golden.check(system, folder) == 1
