"""The retry of a foreign record: this build's function is given the record as its topic had it."""

from __future__ import annotations

from repertory import ActorSystem, Route, SourceRecord, route
from repertory.operate.sources import decoded_again
from tests.apps.fed import Book, Note

HEADERS = (("source", b"web"), ("source-timestamp", b"early"), ("cause", b"why"), ("trace", b"1"))


def test_it_is_the_record_that_could_not_be_relayed() -> None:
    """With its own headers, also of names that dead letters use, and its own time: a function may decide by them."""
    seen: list[SourceRecord] = []

    def from_record(record: SourceRecord) -> Route:
        seen.append(record)
        if len(seen) == 1:
            raise ValueError("not yet")
        return route(Book.note, "a", Note(partition=record.partition, offset=record.offset, index=0))

    system = ActorSystem("retried")
    system.host(Book, partitions=1)
    system.source("lines", "lines", from_record)
    with system.start() as running:
        running.produce("lines", b"1", key=b"k", partition=1, headers=HEADERS)
        running.settle()
        running.advance(60)
        (letter,) = running.dead_letters()
        (command,) = decoded_again(system, letter, ("retry-to", b"nobody"))
    first, again = seen
    assert first.headers == HEADERS
    assert again == first
    assert ("source", b"lines/1/0/0") in command.headers
