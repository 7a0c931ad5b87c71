"""From the log to a shard: what was there is there again; what contradicts itself stops the shard with a sentence."""

from __future__ import annotations

from actors.shard import Limits
from tests.actors.bench import Bench
from tests.actors.domain import Account, Close, Deposit, Pay, Teller

TINY = Limits(snapshot_window_records=2, batch_records_max=1)


def test_snapshots_and_the_tail_of_the_journal_are_the_state() -> None:
    """A restored shard has the entities that the lost one had, from their snapshots and the events after them."""
    bench = Bench(Account, limits=TINY)
    for key in "abcabc":
        bench.tell(Deposit(amount=3), key)
    bench.run()
    assert any(state.snapshot for state in bench.states.values()), "nothing was snapshotted"
    bench.crash()
    assert {key: cell.state for key, cell in bench.shard.cells.items()} == dict.fromkeys("abc", Account(balance=6))


def test_the_state_topic_is_the_history_of_a_stateful_entity() -> None:
    """A restored stateful entity is what its last turn left; one that stopped is gone."""
    bench = Bench(Teller, others=[Account])
    bench.tell(Pay(account="a", amount=1), "t-1")
    bench.tell(Pay(account="a", amount=1), "t-2")
    bench.tell(Close(), "t-1")
    bench.run()
    bench.crash()
    assert {key: cell.state for key, cell in bench.shard.cells.items()} == {"t-2": Teller(asked=1)}
