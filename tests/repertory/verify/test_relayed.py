"""Verify finds what is wrong with the commands of sources, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from repertory import Running
from repertory.actors.headers import SOURCE
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.record import Output
from repertory.bridge.sources.position import SourcePlace, encode_source
from repertory.bridge.system.sourcing import read_positions
from repertory.operate.sources import decoded_again
from repertory.verify import verify
from tests.apps import fed
from tests.apps.fed import Note, line

#: A key and its partition.
KEY = b"a"
PLACE = partition_of(KEY, 2)


@pytest.fixture
def running() -> Iterator[Running]:
    """Relay some records: those with the offsets 1 and 3 have no commands, one is a dead letter."""
    with fed.made("fed").start("memory:") as running:
        for how in ("", "none", "", "value", ""):
            running.produce(fed.TOPIC, line("ab", how), partition=0)
        running.settle()
        yield running


def command(source: bytes, offset: int = 0, index: int = 0, **headers: bytes) -> Output:
    """Return a command that claims to be of a source."""
    value = encode(Note(partition=0, offset=offset, index=index))
    own = ((SOURCE, source), *((name.replace("_", "-"), each) for name, each in headers.items()))
    return Output("fed.book.commands", PLACE, KEY, value, own)


def append(running: Running, output: Output) -> None:
    """Append a record, and handle it."""
    with closing(running._backend.appender()) as appender:
        appender.append([output])
    running.settle()


def found(running: Running, *, decides: bool = True) -> list[str]:
    """Return what is wrong with sources."""
    report = verify(running.reader, fed.made("fed"), decides=decides)
    (check,) = [each for each in report.checks if each.name == "sources"]
    return [str(each) for each in check.offenders]


def test_nothing_is_wrong(running: Running) -> None:
    """Each record is looked at, as are its commands; without deciding again, records count as not verified."""
    report = verify(running.reader, fed.made("fed"))
    (check,) = [each for each in report.checks if each.name == "sources"]
    assert (check.wrong, check.unverifiable, check.looked_at) == (0, 0, 5 + 6 + 1)
    (check,) = [
        each for each in verify(running.reader, fed.made("fed"), decides=False).checks if each.name == "sources"
    ]
    assert (check.wrong, check.unverifiable) == (0, 5)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (command(b"lines/0/4/1", 4, 1), "is command 1 of source lines fed-lines/0@4, which was relayed before"),
        (command(b"lines/0/0/0"), "is command 0 of source lines fed-lines/0@0, and comes behind one of 4"),
        (command(b"lines/0/9/0", 9), "is of source lines fed-lines/0@9, and the position of its source is 5"),
        (command(b"lines/0/4/7", 4), "has the commands [0, 1, 7]: some twice, or some missing"),
    ],
)
def test_a_command_too_many_is_found(running: Running, output: Output, words: str) -> None:
    """Twice, out of order, beyond the position, or with an index that the record has not."""
    append(running, output)
    assert any(words in each for each in found(running, decides=False)), found(running)


@pytest.mark.parametrize(
    "output",
    [
        command(b"web"), command(b"other/0/0/0"), command(b"lines/7/0/0"), command(b"lines/0/0"),
        command(b"lines/0/0/0", retry_of=b"fed.dead-letters/0/0"),
    ],
)  # fmt: skip
def test_what_others_write_is_not_judged(running: Running, output: Output) -> None:
    """Of other sources, or by somebody who uses the name of the header; and an operator's retry."""
    append(running, output)
    assert found(running) == []


def test_a_record_that_was_never_relayed_is_found(running: Running) -> None:
    """The position was moved on without it."""
    running.produce(fed.TOPIC, line("a", "boom"), partition=0)
    running.settle()
    place = SourcePlace("lines", fed.TOPIC, 0)
    position = read_positions(running.reader, "fed").known[place]

    def forge(change: Callable[[bytes], bytes]) -> None:
        value = change(encode_source(position))
        append(running, Output("fed.sources", place.relay, place.key, value))

    forge(lambda value: value.replace(b"\xa4next\x05", b"\xa4next\x06"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fed, "is_mended", lambda: True)
        assert "fed-lines/0@5: (source lines) was never relayed" in found(running)


def test_another_decision_is_found(running: Running) -> None:
    """The code does not make of the record what is in the log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fed, "is_mended", lambda: True)
        wrong = found(running)
    assert wrong[0] == "fed-lines/0@1: (source lines) was never relayed"
    assert wrong[1].startswith("fed-lines/0@3: (source lines) has a dead letter, and decoded again 2 commands in ")


def test_a_dead_letter_that_an_operator_had_decoded_again_is_right(running: Running) -> None:
    """The corrected code makes commands of it; those are in the log, and are the retry's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fed, "is_mended", lambda: True)
        (letter,) = running.dead_letters()
        with closing(running._backend.appender()) as appender:
            appender.append(decoded_again(fed.made("fed"), letter, ("retry-to", b"nobody")))
        running.settle()
        assert found(running) == ["fed-lines/0@1: (source lines) was never relayed"]
    assert found(running) == []
