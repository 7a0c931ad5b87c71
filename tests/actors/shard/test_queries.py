"""Queries in a shard: answered in log order from the last applied state, without a trace and without waiting."""

from __future__ import annotations

from typing import Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory import (
    Answer,
    Context,
    Directive,
    Entity,
    Message,
    Query,
    Raw,
    TestKit,
    command,
    partition_of,
    query,
    restart,
    upcast,
)
from repertory.actors import ContractViolation, evolution
from repertory.actors.context import Directory
from repertory.actors.control import RetryParked
from repertory.actors.entity import resolved
from repertory.actors.message import Envelope, Sender
from repertory.actors.shard.changelog import first_shard_record
from repertory.actors.shard.config import AT_LEAST_ONCE, Limits
from repertory.actors.shard.decision import decide_query
from repertory.actors.shard.recovered import new_shard
from repertory.actors.shard.shard import Shard
from repertory.actors.wire import encode
from repertory.bridge.schemas import Kind, schemas_of
from tests.actors.domain import (
    Account,
    Bag,
    Balance,
    Close,
    Deposit,
    Escalating,
    GetBalance,
    GetItems,
    InsufficientFunds,
    Items,
    Put,
    Router,
    Trip,
    Withdraw,
)
from tests.actors.shard.bench import BACKOFF_MS, POLICY, REPLY_TO, Bench

ONE_KEY = Limits(stash_per_key_max=1)


def plain(message: Message) -> object:
    """Return a message as `Bench.values` shows it."""
    return msgspec.msgpack.decode(encode(message))


def asked(bench: Bench, message: Message | None = None, key: str = "k") -> None:
    """Append a query."""
    bench.ask(message or GetBalance(), key)


def at_least_once(limits: Limits = Limits()) -> Bench:  # noqa: B008  frozen
    """Return a shard that works without transactions where it can."""
    bench = Bench(Account, limits=msgspec.structs.replace(limits, delivery=AT_LEAST_ONCE))
    bench.take_over("")
    return bench


# --- what it sees ---------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.builds(Deposit, amount=st.integers(1, 9)), st.just(GetBalance())), max_size=20))
def test_a_query_sees_each_command_before_it_and_none_behind_it(messages: list[Deposit | GetBalance]) -> None:
    """In one batch, each answer is the balance after the commands before the query."""
    bench, balance, due = Bench(Account), 0, []
    for message in messages:
        if isinstance(message, Deposit):
            balance += message.amount
            bench.tell(message)
        else:
            due.append(plain(Balance(amount=balance)))
            asked(bench)
    bench.run()
    assert bench.replies == due


def test_an_entity_that_does_not_exist_answers_from_its_initial_state() -> None:
    """Neither a key without a command nor a life that ended has anything; the query does not begin a life."""
    bench = Bench(Account)
    asked(bench)
    bench.tell(Deposit(amount=5), "ended")
    bench.tell(Close(), "ended")
    asked(bench, key="ended")
    bench.run()
    assert bench.replies == [plain(Balance(amount=0))] * 2
    assert set(bench.shard.cells) == {"ended"}


def test_a_query_may_be_rejected() -> None:
    """A Rejection that the annotation names is an answer like another; the query counts as answered."""
    kit = TestKit(Account(balance=-1))
    outcome = kit.run(GetBalance())
    assert (outcome.reply, outcome.state, outcome.events) == (InsufficientFunds(balance=-1), Account(balance=-1), ())


def test_a_test_kit_answers_queries_and_keeps_the_state() -> None:
    """``run`` returns the answer as the reply; a query that raises raises."""
    kit = TestKit(Account())
    kit.run(Deposit(amount=3))
    outcome = kit.run(GetBalance())
    assert (outcome.reply, outcome.events, outcome.sent, outcome.stopped) == (Balance(amount=3), (), (), False)
    assert kit.state == Account(balance=3)
    with pytest.raises(RuntimeError, match="no look"):
        kit.run(GetBalance(error="restart"))
    with pytest.raises(LookupError, match="Router has no handler for GetBalance"):
        TestKit(Router()).run(GetBalance())


# --- no trace -------------------------------------------------------------------------------------------------


def test_a_turn_of_queries_writes_the_replies_and_the_shard_record_and_nothing_else() -> None:
    """Exactly once, the shard record says which queries are answered: after a crash they are not answered again."""
    bench = Bench(Account)
    bench.tell(Deposit(amount=1))
    bench.run()
    before = bench.record
    for _ in range(3):
        asked(bench)
    bench.fetch()
    result = bench.turn()
    assert result is not None
    assert (result.counts.answered, result.counts.applied, result.handled) == (3, 0, 3)
    topics = [output.topic for output in bench.transactions[-1].records]
    assert topics == ["t.replies"] * 3 + ["t.account.state"]
    assert (bench.record.next, bench.record.seq) == (before.next + 3, before.seq)
    bench.crash()
    bench.run()
    assert len(bench.replies) == 3


def test_a_query_without_anybody_to_answer_is_consumed_without_effect() -> None:
    """Its handler is not called: one that would fail leaves no incident either."""
    bench = Bench(Account)
    bench.tell(GetBalance(error="restart"))
    bench.fetch()
    result = bench.turn()
    assert result is not None
    assert (result.outputs, result.incidents, result.counts.answered, bench.record.next) == ([], [], 1, 1)


def test_at_least_once_a_turn_of_queries_needs_no_transaction() -> None:
    """It writes no shard record; after a crash the queries are answered again, with the same causes."""
    bench = at_least_once()
    asked(bench)
    bench.fetch()
    result = bench.shard.decide(bench.now_ms)
    assert result is not None
    assert result.nontransactional
    assert not result.changelog
    assert [(output.offset, output.index) for output in result.outputs] == [(0, 0)]
    bench.crash()
    bench.fetch()
    again = bench.shard.decide(bench.now_ms)
    assert again is not None
    assert again.outputs == result.outputs


def test_at_least_once_few_queries_are_answered_again() -> None:
    """After ``careful_records_max`` queries in turns without a transaction there is one with a transaction."""
    bench = at_least_once(Limits(careful_records_max=3))
    kinds = []
    for _ in range(5):
        asked(bench)
        bench.fetch()
        result = bench.shard.decide(bench.now_ms)
        assert result is not None
        kinds.append(result.nontransactional)
    assert kinds == [True, True, True, False, True]


# --- it waits for nothing -------------------------------------------------------------------------------------


def test_a_query_does_not_wait_behind_the_stash_of_its_key() -> None:
    """It sees what is applied, and neither the stashed command nor those behind it; later it sees them."""
    bench = Bench(Account)
    bench.tell(Deposit(amount=1))
    bench.tell(Trip(times=1))
    bench.tell(Deposit(amount=10))
    asked(bench)
    bench.run()
    assert bench.replies == [plain(Balance(amount=1))]
    assert len(bench.shard.stash.queue("k")) == 2
    bench.now_ms += BACKOFF_MS
    asked(bench)
    bench.run()
    assert bench.replies[-1] == plain(Balance(amount=1 + 2 + 10))


def test_a_query_of_a_parked_key_is_answered() -> None:
    """Also where commands that ask are dead letters at once, and where the stash has no room for a command."""
    for policy in (restart(max_restarts=0), restart(max_restarts=0, asked="answer")):
        bench = Bench(Account, policy=policy, limits=ONE_KEY)
        bench.tell(Deposit(amount=1))
        bench.tell(Trip(times=9))
        asked(bench)
        bench.settle()
        assert bench.shard.stash.queue("k")[0].record.parked
        assert bench.replies == [plain(Balance(amount=1))]
        assert bench.errors() == []


def test_queries_wait_in_log_order_behind_a_command_without_room() -> None:
    """A shard that is stalled takes no query either: it would not see the command that waits in the mailbox."""
    bench = Bench(Account, policy=restart(max_restarts=0), limits=ONE_KEY)
    parked = bench.tell(Trip(times=1))
    bench.tell(Deposit(amount=1))
    asked(bench)
    bench.settle()
    assert (bench.replies, bench.shard.stalled is not None) == ([], True)
    bench.tell(RetryParked(offset=parked))
    bench.settle()
    assert bench.shard.stash.queue("k")[0].record.parked
    assert bench.replies == []


@pytest.mark.parametrize("error", ["restart", "resume", "stop", "escalate"])
def test_a_query_that_raises_is_answered_undelivered_whatever_the_policy(error: str) -> None:
    """No dead letter, no restart, nothing stashed or parked, and the shard goes on; the operator sees one incident."""
    on = {KeyError: Directive.RESUME, ValueError: Directive.STOP, Escalating: Directive.ESCALATE}
    bench = Bench(Account, policy=restart(on=on))
    for _ in range(3):
        asked(bench, GetBalance(error=error))
    bench.tell(Deposit(amount=1))
    bench.fetch()
    result = bench.turn()
    assert result is not None
    assert (len(result.incidents), result.incidents[0].outcome) == (1, "unanswered")
    assert result.incidents[0].next == "the asker is told; 2 more in this turn failed alike"
    assert "@query Account.look handled it" not in result.incidents[0].reason
    assert result.counts.answered == 3
    assert (bench.dead_letters, bench.shard.stash.size, bench.shard.failure) == ([], 0, None)
    assert not bench.shard._entities.budget.of("k")
    assert {reply["type"] for reply in bench.replies} == {"Undelivered"}
    assert "no look" in bench.replies[0]["reason"]
    assert len(bench.journal) == 1


def test_a_query_that_changes_its_entity_in_place_breaks_its_contract() -> None:
    """The change is undone, and the asker is told."""
    bench = Bench(Bag)
    bench.tell(Put(item="a"))
    asked(bench, GetItems(spoil=True))
    asked(bench, GetItems())
    bench.run()
    assert bench.replies[0]["type"] == "Undelivered"
    assert "@query Bag.look> changed its entity in place" in bench.replies[0]["reason"]
    assert bench.replies[1] == plain(Items(items=("a",)))
    with pytest.raises(ContractViolation, match="a query changes nothing"):
        TestKit(Bag()).run(GetItems(spoil=True))


def test_a_query_that_returns_what_it_does_not_announce_breaks_its_contract() -> None:
    """As for commands: the error names what the annotation allows."""
    behaviour = resolved(Account)
    handler = behaviour.queries[GetBalance]
    envelope = Envelope(0, "k", GetBalance(), b"", (), 0, Sender("t.replies", 0))
    before, handler.function = handler.function, lambda _self, _ask: Items(items=())
    try:
        with pytest.raises(ContractViolation, match="returned Items; its annotation names Balance, InsufficientFunds"):
            decide_query(
                behaviour, Account(), encode(Account()), envelope,
                Directory(lambda _: True, lambda _: 1), cause="c", attempt=1, bytes_max=1 << 20,
            )  # fmt: skip
    finally:
        handler.function = before


def test_a_key_on_the_wrong_partition_is_handled_as_for_commands() -> None:
    """The query is a dead letter, and the asker is told."""
    bench = Bench(Account, partitions=8, partition=0)
    wrong = next(key for key in "abcdefgh" if partition_of(key.encode(), 8) != 0)
    asked(bench, key=wrong)
    bench.run()
    assert bench.errors() == ["WrongPartition"]
    assert bench.replies[0]["type"] == "Undelivered"


# --- deaths, refusals, retries --------------------------------------------------------------------------------


def test_a_query_that_kills_its_processes_is_quarantined() -> None:
    """After ``deaths_max`` deaths it is a dead letter, and the asker is told; later queries are answered."""
    bench = Bench(Account, owner="a")
    bench.take_over("a")
    asked(bench)
    asked(bench)
    for pid in range(3):
        bench.take_over("a", [(0, pid)])
    bench.run()
    assert bench.errors() == ["Quarantined"]
    assert [reply["type"] for reply in bench.replies] == ["Undelivered", "Balance"]


def test_a_query_whose_answer_the_log_refuses_is_answered_undelivered() -> None:
    """The command is named by its offset; its handler is not called again."""
    bench = Bench(Account)
    asked(bench)
    bench.shard = Shard(bench.config, new_shard(bench.config, first_shard_record()), {0: "the answer is too large"})
    bench.fetch()
    result = bench.turn()
    assert result is not None
    assert result.refused == (0,)
    assert "the answer is too large" in bench.replies[0]["reason"]
    assert bench.dead_letters == []


def test_an_operator_who_retries_a_query_is_told_how_it_ended() -> None:
    """A query that was a dead letter (quarantined, on the wrong partition) is answered to the operator."""
    bench = Bench(Account)
    headers = (("retry-of", b"t.dead-letters/0/0"), ("retry-to", b"t.replies/1/op"))
    bench.tell(GetBalance(), headers=headers)
    bench.tell(GetBalance(error="restart"), headers=headers)
    bench.run()
    assert [reply["outcome"] for reply in bench.replies] == ["applied", "rejected"]
    assert msgspec.msgpack.decode(bench.replies[0]["reply"]) == plain(Balance(amount=0))
    assert b"no look" in bench.replies[1]["reply"]


def test_the_query_in_hand_is_named_only_while_it_runs() -> None:
    """Another thread sees the query while it is in its handler, and afterwards the last command."""
    bench = Bench(Account, policy=POLICY)
    bench.tell(Withdraw(amount=1))
    asked(bench)
    bench.run()
    assert bench.shard.handling is not None
    assert isinstance(bench.shard.handling.message, Withdraw)


# --- versions, and who else meets them ------------------------------------------------------------------------


class GetTotal(Query, version=2, was=("GetSum",)):
    """Ask for the total in a currency; before, there was one."""

    currency: str


class Total(Answer, version=3):
    """The total."""

    text: str


class Purse(Entity):
    """Stateful."""

    amount: int = 0

    @command
    def put(self, cmd: Deposit) -> Self:
        return self.replace(amount=self.amount + cmd.amount)

    @query
    def total(self, ask: GetTotal) -> Total:
        return Total(text=f"{self.amount} {ask.currency}")


def test_a_query_of_an_earlier_version_and_name_is_upcast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As commands are: what an older client sends is answered, and the answer has its own version."""
    monkeypatch.setattr(evolution, "_steps", {})

    @upcast("GetSum", to=2)
    def with_currency(raw: Raw) -> Raw:
        return {**raw, "currency": "EUR"}

    bench = Bench(Purse)
    bench.tell(encode({"type": "GetSum"}), headers=REPLY_TO)
    asked(bench, GetTotal(currency="CHF"))
    bench.tell(encode({"type": "GetTotal@3"}), headers=REPLY_TO)
    bench.run()
    assert bench.replies[:2] == [{"type": "Total@3", "text": "0 EUR"}, {"type": "Total@3", "text": "0 CHF"}]
    assert bench.replies[2]["type"] == "Undelivered"
    assert bench.errors() == ["DecodeError"]


def test_queries_and_answers_are_in_the_catalogue() -> None:
    """An owner that lacks a query of a newer build leaves its entity to it, as with commands."""
    kinds = {schema.name: schema.kind for schema in schemas_of([resolved(Purse)]).values()}
    assert (kinds["GetTotal@2"], kinds["Total@3"], kinds["Deposit"]) == (Kind.TAKEN, Kind.ANSWER, Kind.TAKEN)


class Curious(Entity):
    """Tries to query another entity."""

    @command
    def put(self, _cmd: Put, ctx: Context) -> None:
        ctx.ask(Account.look, "a", GetBalance())  # type: ignore[arg-type]


def test_entities_do_not_query_each_other() -> None:
    """A handler that tries breaks its contract."""
    with pytest.raises(ContractViolation, match=r"<@query Account.look> is not a @command method of an entity"):
        TestKit(Curious()).run(Put(item="x"))
