"""After a node went down, the commands that it may have died of are announced and handled alone; then batches again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory import Backoff, Command, Directive, Entity, Event, command, event, restart
from repertory.actors.shard.changelog import ShardRecord
from repertory.actors.shard.config import Limits
from repertory.actors.shard.crash_guard import COMMAND, CrashGuard
from repertory.actors.shard.turn_result import TurnResult
from tests.actors.domain import Account, Deposit, Trip
from tests.actors.shard.bench import Bench

BATCH = 5
LIMITS = Limits(batch_records_max=BATCH, deaths_max=3)


def bench(commands: int) -> Bench:
    """Return a shard of node ``a`` that has handled one command, and has ``commands`` more to handle."""
    made = Bench(Account, limits=LIMITS, owner="a")
    made.take_over("a")
    made.tell(Deposit(amount=1), "first")
    made.run()
    for number in range(commands):
        made.tell(Deposit(amount=1), f"k{number % 3}")
    return made


def handled(before: int, result: TurnResult) -> int:
    """Return the number of commands that a turn consumed."""
    return result.record.next - before


def turns(shard: Bench) -> list[TurnResult]:
    """Run, and return every turn."""
    found = []
    shard.fetch()
    while (result := shard.turn()) is not None:
        found.append(result)
        shard.fetch()
    return found


def test_a_worker_of_the_same_node_handles_whole_batches() -> None:
    """The node's memory names the command that the previous worker was handling, so no command is announced."""
    shard = bench(commands=10)
    assert shard.take_over("a") is None
    assert [result.record.next for result in turns(shard)] == [6, 11]


def test_after_a_node_went_down_each_command_is_announced_before_it_is_handled() -> None:
    """Each transaction has one announced command, for as many as can have been under way; then batches again."""
    shard = bench(commands=12)
    takeover_result = shard.take_over("b")
    assert takeover_result is not None
    assert [(i.error, i.next) for i in takeover_result.incidents] == [
        ("UncleanTakeover", f"{BATCH} commands are announced first and handled one per transaction")
    ]
    before, guarded = takeover_result.record.next, takeover_result.record.guarded
    sizes = []
    for result in turns(shard):
        size = handled(before, result)
        if result.record.next <= 1 + BATCH:
            assert size == 0 or (size == 1 and guarded == before), (size, guarded, before)
        before, guarded = result.record.next, result.record.guarded
        sizes.append(size)
    assert sizes == [0, *[1] * BATCH, BATCH, 12 - 2 * BATCH]
    assert (shard.record.guarded, shard.record.guarded_below, shard.record.owner) == (-1, 0, "b")


def test_commands_appended_after_the_takeover_are_handled_in_batches() -> None:
    """Commands appended after the takeover cannot have been under way."""
    shard = bench(commands=2)
    shard.take_over("b")
    for _ in range(BATCH):
        shard.tell(Deposit(amount=1), "later")
    assert [result.record.next for result in turns(shard)] == [1, 2, 3, 8]


@given(poison=st.integers(0, 39), batch=st.integers(1, 40), careful=st.integers(1, 50))
def test_one_more_node_goes_down_if_few_commands_are_handled_alone(poison: int, batch: int, careful: int) -> None:
    """Wherever in a large batch the deadly command is: the second node dies in a small one, and the next ones know."""
    limits = msgspec.structs.replace(LIMITS, batch_records_max=batch, careful_records_max=careful)
    shard = Bench(Taster, limits=limits, owner="node-0")
    shard.take_over("node-0")
    for number in range(40):
        shard.tell(Poison() if number == poison else Feed(), f"k{number % 3}")
    dead = 0
    while not shard.errors():
        try:
            shard.run()
        except MemoryError:
            dead += 1
            shard.take_over(f"node-{dead}")
    assert shard.errors() == ["Quarantined"]
    assert len(shard.journal) == 39
    assert limits.deaths_max + 1 <= dead <= limits.deaths_max + 2


def test_a_drained_shard_is_taken_over_without_announcements() -> None:
    """After a drain no command is announced; the takeover record clears ``closed`` first."""
    shard = bench(commands=7)
    handover_result = shard.shard.handover_result()
    assert handover_result is not None
    shard.commit(handover_result)
    assert shard.record.closed
    takeover_result = shard.take_over("b")
    assert takeover_result is not None
    assert (takeover_result.incidents, takeover_result.record.closed, takeover_result.record.owner) == ([], False, "b")
    assert [result.record.next for result in turns(shard)] == [6, 8]


def test_the_first_owner_is_recorded_before_it_handles_a_command() -> None:
    """Otherwise the first commands of a shard could kill every node, and no node would know."""
    shard = Bench(Account, limits=LIMITS, owner="a")
    shard.tell(Deposit(amount=1))
    takeover_result = shard.take_over("a")
    assert takeover_result is not None
    assert (takeover_result.record.owner, takeover_result.record.next) == ("a", 0)
    assert [e.record.next for e in turns(shard)] == [1]
    assert shard.take_over("a") is None


def test_a_new_owner_is_recorded_even_if_no_command_was_under_way() -> None:
    """Otherwise, after its death, the record would name an earlier node, which may own the shard again."""
    shard = bench(commands=0)
    takeover_result = shard.take_over("b")
    assert takeover_result is not None
    assert (takeover_result.incidents, takeover_result.record.owner, takeover_result.record.guarded) == ([], "b", -1)
    shard.tell(Deposit(amount=1))
    again = shard.take_over("a")
    assert again is not None
    assert [i.error for i in again.incidents] == ["UncleanTakeover"]


def test_an_announcement_is_cleared_when_the_shard_fails() -> None:
    """The handler returned with an error that fails the shard, so a later death of the node has another cause."""
    policy = restart(default=Directive.ESCALATE)
    shard = Bench(Account, limits=LIMITS, owner="a", policy=policy)
    shard.take_over("a")
    shard.tell(Trip(times=9), "w")
    shard.take_over("b")
    assert [result.record.guarded for result in turns(shard)] == [0, -1]
    assert shard.shard.failure is not None
    assert shard.record.next == 0
    takeover_result = shard.take_over("c")
    assert takeover_result is not None
    assert [i.error for i in takeover_result.incidents] == ["UncleanTakeover"]


def test_an_announcement_is_cleared_when_the_stash_has_no_room() -> None:
    """A command without room in the stash is not handled, perhaps for days, so no node dies of it.

    It is not announced again while there is no room.
    """
    policy = restart(default=Directive.STOP)
    shard = Bench(Account, limits=msgspec.structs.replace(LIMITS, stash_per_key_max=2), owner="a", policy=policy)
    shard.take_over("a")
    shard.tell(Trip(times=9), "w")
    shard.tell(Deposit(amount=1), "w")
    shard.run()
    shard.tell(Deposit(amount=1), "x")
    shard.tell(Deposit(amount=1), "w")
    shard.take_over("b")
    assert [(result.record.next, result.record.guarded) for result in turns(shard)] == [(2, 2), (3, 3), (3, -1)]
    assert shard.shard.stalled is not None
    assert not shard.shard.ready(shard.now_ms)


def test_a_death_is_counted_once() -> None:
    """An announced command kills a process of b; c counts that and dies of it too; then b returns and remembers it."""
    shard = bench(commands=1)
    shard.take_over("b")
    shard.fetch()
    assert (guarded := shard.turn()) is not None
    assert guarded.record.guarded == 1
    shard.take_over("c")
    assert (shard.record.suspect, shard.record.deaths) == (1, 1)
    shard.fetch()
    shard.turn()
    shard.take_over("b", deaths=[(1, 4711)])
    assert (shard.record.suspect, shard.record.deaths) == (1, 2)


def test_a_death_that_only_its_own_node_knows_is_counted_when_that_node_returns() -> None:
    """Within a batch no command is announced in the log, so the owner in between does not know about the death."""
    shard = bench(commands=3)
    shard.take_over("c")
    assert shard.record.deaths == 0
    shard.take_over("a", deaths=[(2, 4711)])
    assert (shard.record.suspect, shard.record.deaths) == (2, 1)


def test_an_abort_does_not_end_the_announcements() -> None:
    """The next restore continues to announce commands, also on the same node."""
    shard = bench(commands=4)
    shard.take_over("b")
    shard.fetch()
    shard.turn()
    shard.turn()
    assert shard.record.next == 2
    shard.take_over("b")
    assert [result.record.next for result in turns(shard)] == [3, 4, 5]


def died(shard: Bench, offset: int, owners: Sequence[str]) -> list[str]:
    """Let nodes run the shard until one survives; each dies when it handles ``offset``. Return the nodes that died."""
    dead = []
    for owner in owners:
        shard.take_over(owner)
        shard.fetch()
        while True:
            at = shard.record.next
            quarantined_before = shard.errors().count("Quarantined")
            result = shard.shard.decide(shard.now_ms)
            if result is None:
                return dead
            touched = at <= offset < result.record.next
            if touched and "Quarantined" not in [incident.error for incident in result.incidents]:
                dead.append(owner)
                break
            shard.commit(result)
            assert shard.errors().count("Quarantined") >= quarantined_before
    return dead


@given(commands=st.integers(1, 14), data=st.data())
def test_a_command_that_kills_every_node_is_quarantined(commands: int, data: st.DataObject) -> None:
    """After one unseen death and ``deaths_max`` announced ones. All other commands are applied and never suspected."""
    shard = bench(commands)
    offset = data.draw(st.integers(1, commands))
    dead = died(shard, offset, [f"n{number}" for number in range(20)])
    assert 1 <= len(dead) <= 1 + LIMITS.deaths_max
    assert shard.errors() == ["Quarantined"]
    assert [int(delivery.header("source-offset") or b"") for delivery in shard.dead_letters] == [offset]
    assert len(shard.journal) == commands


class Feed(Command):
    """A harmless command."""


class Poison(Command):
    """A command that kills its process."""


class Fed(Event):
    """The command was applied."""


class Taster(Entity):
    """Handles commands, some of which kill the process."""

    meals: int = 0

    @command
    def feed(self, _cmd: Feed) -> Fed:
        """Apply it."""
        return Fed()

    @command
    def poison(self, _cmd: Poison) -> Fed:
        """Kill the process."""
        raise MemoryError

    @event
    def fed(self, _evt: Fed) -> Self:
        """Count it."""
        return self.replace(meals=self.meals + 1)


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
@given(deadly=st.lists(st.booleans(), min_size=1, max_size=12))
def test_commands_that_kill_are_quarantined_one_after_the_other(delivery: str, deadly: list[bool]) -> None:
    """Each such command of a batch takes ``deaths_max`` deaths, and none resets the count of another."""
    limits = msgspec.structs.replace(LIMITS, batch_records_max=100, delivery=delivery)
    shard = Bench(Taster, limits=limits, owner="a")
    shard.take_over("a")
    for number, kills in enumerate(deadly):
        shard.tell(Poison() if kills else Feed(), f"k{number % 3}")
    deaths: list[tuple[int, int]] = []
    for _ in range(sum(deadly) * limits.deaths_max):
        with pytest.raises(MemoryError):
            shard.run()
        deaths.append((shard.config.in_flight[COMMAND] - 1, 4711))
        shard.take_over("a", deaths[-1:])
    shard.run()
    assert [offset for offset, _ in deaths] == [n for n, kills in enumerate(deadly) if kills for _ in range(3)]
    assert shard.errors() == ["Quarantined"] * sum(deadly)
    assert len(shard.journal) == deadly.count(False)


def test_commands_before_a_suspect_are_committed_first() -> None:
    """A batch that kills its process only as a whole, for example by its memory, is completed in parts."""
    shard = bench(commands=BATCH)
    shard.take_over("a", deaths=[(4, 4711)])
    assert [result.record.next for result in turns(shard)] == [4, 5, 6]
    assert (shard.record.suspect, shard.record.deaths, shard.errors()) == (-1, 0, [])


def test_each_stashed_command_is_handled_alone_once() -> None:
    """A command that was stashed at the takeover may have killed the node: its next attempt is announced."""
    policy = restart(max_restarts=5, backoff=Backoff(first_s=0.1, factor=1, jitter=0))
    shard = Bench(Account, limits=LIMITS, owner="a", policy=policy)
    shard.take_over("a")
    shard.tell(Trip(times=2), "w")
    shard.tell(Deposit(amount=1), "w")
    shard.tell(Deposit(amount=1), "x")
    shard.run()
    shard.take_over("b")
    shard.now_ms += 100
    records = [(e.record.guarded, e.counts.restarted) for e in turns(shard)]
    assert records == [(0, 0), (-1, 1)]
    shard.now_ms += 100
    turns(shard)
    assert shard.shard.stash.size == 0
    assert not shard.shard._guard.is_careful


def test_every_stashed_command_is_handled_alone_before_batches_begin_again() -> None:
    """Several keys wait at the takeover: each first attempt is announced, also after the commands below the range."""
    policy = restart(max_restarts=5, backoff=Backoff(first_s=0.1, factor=1, jitter=0))
    shard = Bench(Account, limits=LIMITS, owner="a", policy=policy)
    shard.take_over("a")
    for key in "tuvw":
        shard.tell(Trip(times=1), key)
    shard.run()
    shard.take_over("b")
    shard.now_ms += 100
    for key in "xyz":
        shard.tell(Deposit(amount=1), key)
    records = [(result.record.guarded, result.counts.applied) for result in turns(shard)]
    assert records == [(0, 0), (1, 1), (2, 1), (3, 1), (-1, 1), (-1, 5), (-1, 2)]


def test_a_system_without_a_node_announces_nothing() -> None:
    """A system in one process (tests, notebooks) has no node, and the next owner announces no commands."""
    shard = Bench(Account, limits=LIMITS)
    for _ in range(7):
        shard.tell(Deposit(amount=1))
    assert shard.take_over("") is None
    shard.fetch()
    shard.turn()
    assert shard.shard.handover_result() is None
    takeover_result = shard.take_over("b")
    assert takeover_result is not None
    assert takeover_result.incidents == []
    assert [e.record.next for e in turns(shard)] == [7]


@pytest.mark.parametrize(("nontransactional", "batches"), [(False, 1), (True, 2)])
def test_commands_without_journal_records_extend_the_guarded_range(*, nontransactional: bool, batches: int) -> None:
    """At least once, a batch of commands without journal records can lie between the record and the fatal command."""
    record = ShardRecord(
        next=7, seq=0, tail_start=0, tail_offset=0, changelog=1, owner="a", epoch=1, nontransactional=nontransactional
    )
    config = msgspec.structs.replace(Bench(Account, limits=LIMITS).config, owner="b")
    guard = CrashGuard(config, record, 100)
    assert [offset for offset in range(100) if guard.goes_alone(offset)] == list(range(7 + batches * BATCH))
