"""Over every schedule of crashes, each record of a source has its commands once, in order, or one dead letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from repertory import ActorSystem, Running
from repertory.bridge.log.clock import MovableClock
from repertory.bridge.log.embedded.log import EmbeddedLog
from repertory.bridge.log.port import Member
from repertory.bridge.system.settings import Settings
from repertory.simulation.killable import KillableBackend
from repertory.verify import verify
from tests.apps import fed
from tests.apps.fed import Book, line

#: Those of a relay, those of a commit, and some of the shards that handle what it sends.
POINTS = (
    "relay-claiming", "relay-claimed", "relay-restored", "relay-fetched", "relay-decided", "relay-sent",
    "relay-committed", "begun", "producing", "producing-dead-letter", "offset-sent", "committed", "decided", "claimed",
)  # fmt: skip
PARTITIONS, KEYS = 3, "abc"

#: A record: its partition, the keys that it tells, and what it does to the function.
Given = tuple[int, str, str]
RECORDS = st.lists(
    st.tuples(
        st.integers(0, PARTITIONS - 1), st.text(KEYS, max_size=3), st.sampled_from(["", "", "", "none", "value"])
    ),
    max_size=12,
)
#: A crash: after so many records, at the n-th passing of a point.
CRASHES = st.lists(st.tuples(st.integers(0, 12), st.sampled_from(POINTS), st.integers(1, 4)), max_size=8)


class Crashed(BaseException):
    """The process dies here."""


class Killable(KillableBackend):
    """The log in memory, of a process that may die within its transactions."""

    def log(self, member: Member, subscriptions: Sequence[str]) -> EmbeddedLog:
        """Return the log of one process."""
        return self.log_of(member, subscriptions)


def started(batch: int) -> Running:
    """Start the system."""
    system = fed.made("fed").configured(Settings(batch_records_max=batch))
    clock = MovableClock()
    return Running(system, Killable("memory:", system.settings, clock=clock), clock)


def surviving(running: Running, do: Callable[[], object]) -> None:
    """Do something; as often as the process dies within it, begin again."""
    while True:
        try:
            do()
        except Crashed:
            continue
        return


def kill_at(running: Running, point: str, passing: int) -> None:
    """Arm one kill."""
    left = [passing]

    def reached(name: str) -> None:
        if name == point and left[0] > 0:
            left[0] -= 1
            if left[0] == 0:
                raise Crashed(point)

    running.on_kill_point = reached


def expected(records: Sequence[Given]) -> tuple[dict[str, list[tuple[int, int, int]]], Counter[tuple[int, int]]]:
    """Return by key what its book is told, in any order of partitions, and the places of the dead letters."""
    offsets: Counter[int] = Counter()
    books: dict[str, list[tuple[int, int, int]]] = {key: [] for key in KEYS}
    letters: Counter[tuple[int, int]] = Counter()
    for partition, keys, how in records:
        offset = offsets[partition]
        offsets[partition] += 1
        if how == "value":
            letters[partition, offset] += 1
        elif not how:
            for index, key in enumerate(keys):
                books[key].append((partition, offset, index))
    return books, letters


def check(running: Running, records: Sequence[Given]) -> None:
    """Compare what the books were told, and the dead letters, with the records."""
    books, letters = expected(records)
    for key, wanted in books.items():
        book = running.state(Book, key)
        told = () if book is None else book.pages
        for partition in range(PARTITIONS):
            assert [page for page in told if page[0] == partition] == [page for page in wanted if page[0] == partition]
    assert Counter((each.source_partition, each.source_offset) for each in running.dead_letters()) == letters
    assert isinstance(running.system, ActorSystem)
    report = verify(running.reader, running.system)
    assert report.ok, [each for each in report.checks if not each.ok]


def produce(running: Running, given_: Given) -> None:
    """Append one record to the topic."""
    partition, keys, how = given_
    running.produce(fed.TOPIC, line(keys, how), partition=partition)


@settings(max_examples=200)
@given(RECORDS, CRASHES, st.sampled_from([1, 2, 30]))
def test_each_record_is_relayed_once(
    records: Sequence[Given], crashes: Sequence[tuple[int, str, int]], batch: int
) -> None:
    """Wherever the process dies, how often, and however many records one transaction takes."""
    with started(batch) as running:
        for number in range(len(records) + 1):
            for at, point, passing in crashes:
                if at == number:
                    kill_at(running, point, passing)
                    surviving(running, running.settle)
            running.on_kill_point = None
            if number < len(records):
                produce(running, records[number])
        running.settle()
        check(running, records)


def test_a_death_at_each_point_of_a_relay() -> None:
    """At each passing of each point, until it is passed no more."""
    records: list[Given] = [(0, "ab", ""), (1, "a", "value"), (0, "", "none"), (2, "c", ""), (0, "a", "")]
    for point in POINTS:
        for passing in range(1, 40):
            with started(2) as running:
                kill_at(running, point, passing)
                for each in records:
                    produce(running, each)
                deaths = []
                try:
                    running.settle()
                except Crashed as died:
                    deaths.append(died)
                surviving(running, running.settle)
                check(running, records)
            if not deaths:
                break
        else:
            raise AssertionError(f"{point} is passed without end")
        assert passing > 1, f"{point} is never passed"
