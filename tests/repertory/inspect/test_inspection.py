"""Operators can read any record: as text, or as an error of one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import pytest

from repertory import Command, Entity, Event, command, event
from repertory.actors.shard.changelog import StateRecord, encode_changelog_record
from repertory.actors.wire import DecodeError, encode
from repertory.bridge.log.record import Output
from repertory.bridge.system.committed import entity_state
from repertory.bridge.system.running import Running
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.system import ActorSystem
from repertory.inspect.readable import readable
from repertory.inspect.shards import shard_status
from tests.actors.domain import Account, Deposit


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (None, "null"),
        (b"\x81\xa1a\x01", '{"a": 1}'),
        (b"\x81\x91\x01\x02", '{"[1]": 2}'),
        (b"\x81\x80\x02", '{"{}": 2}'),
        (b"\x81\xc4\x01\xff\x02", r"""{"b'\\xff'": 2}"""),
        (b"\x81\x05\xc4\x01\xff", r"""{"5": "b'\\xff'"}"""),
        (b"\x81\xa1\xff\x01", r"b'\x81\xa1\xff\x01'"),
        (b"\xc1", r"b'\xc1'"),
        (b"\x91" * 33 + b"\x01", repr(b"\x91" * 33 + b"\x01")),
    ],
)
def test_any_value_can_be_shown(data: bytes | None, shown: str) -> None:
    """MessagePack is shown as one line of JSON, with keys of any type; other values as bytes."""
    assert readable(data) == shown


@pytest.fixture
def running() -> Iterator[Running]:
    """Run an account with one deposit."""
    system = ActorSystem("bank", settings=Settings(snapshot_window_bytes_max=1, snapshot_window_records=1))
    system.host(Account, partitions=1)
    with system.start() as running:
        running.client.tell(Account.deposit, "a", Deposit(amount=5))
        running.settle()
        yield running


NUMBERED = (("seq", b"0"), ("version", b"1"))


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (
            Output(
                "bank.account.state",
                0,
                b"a",
                encode_changelog_record(StateRecord(snapshot=b"\x81\xa4type\xa1\xff")),
                NUMBERED,
            ),
            r"the snapshot bank.account.state/0@\d+ does not fit Account",
        ),
        (
            Output("bank.account.events", 0, b"a", b"\x82\xa4type\xa9Deposited\xa6amount\xa1x", (("seq", b"9"),)),
            r"Expected `int`, got `str`",
        ),
        (Output("bank.account.state", 0, b"\0stash/first", b"", ()), "its key .* does not end with an offset"),
    ],
)
def test_a_record_that_cannot_be_read_is_a_sentence(running: Running, record: Output, sentence: str) -> None:
    """The error of ``repertory state`` has the record that cannot be read, and its place."""
    running._backend.appender().append([record])
    system = running.system
    with pytest.raises(DecodeError, match=sentence):
        entity_state(running.reader, system, system.hosted[Account], "a")


class Pour(Command):
    """Put more in."""


class Poured(Event):
    """There is more in it."""

    much: int = 1


class Cup(Entity):
    """Its event handler fails at large amounts, which its command handler does not check."""

    holds: int = 0

    @command
    def pour(self, _cmd: Pour) -> Poured:
        """Pour."""
        return Poured()

    @event
    def poured(self, evt: Poured) -> Self:
        """Hold it."""
        if evt.much > 10:
            raise OverflowError("too much")
        return self.replace(holds=self.holds + evt.much)


def test_an_event_that_cannot_be_applied_is_a_sentence() -> None:
    """The error quotes that of the event handler, with the place of the event."""
    system = ActorSystem("bar")
    system.host(Cup, partitions=1)
    with system.start() as running:
        output = Output("bar.cup.events", 0, b"c", encode(Poured(much=11)), (("seq", b"0"), ("version", b"1")))
        running._backend.appender().append([output])
        with pytest.raises(DecodeError, match=r"bar\.cup\.events/0@0 cannot be applied: OverflowError: too much; "):
            running.state(Cup, "c")


def test_status_says_what_it_cannot_read(running: Running) -> None:
    """A stash record without an offset is an error sentence, not a traceback."""
    running._backend.appender().append([Output("bank.account.state", 0, b"\0stash/-1", b"", ())])
    with pytest.raises(DecodeError, match="does not end with an offset"):
        shard_status(running.reader, running.system, running.system.hosted[Account], 0)
