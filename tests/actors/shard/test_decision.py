"""One command on one entity: the contract, values that survive encoding, replies, and the state after a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.actors import (
    Command,
    Context,
    ContractViolation,
    DefinitionError,
    Done,
    Entity,
    Event,
    OutputTooLarge,
    Sender,
    TestKit,
    Undelivered,
    command,
    event,
    reply,
)
from repertory.actors.shard.turn_result import Published
from tests.actors.domain import (
    Account,
    Bag,
    Deposit,
    Deposited,
    Desk,
    Hold,
    InsufficientFunds,
    Pay,
    Put,
    Release,
    Split,
    Spoil,
    Teller,
    Withdraw,
    Withdrawn,
)
from tests.actors.shard.bench import Bench

Act = Callable[[Any, Context], Any]


class Do(Command):
    """Run the function that the test puts into ``acts``."""


class Grown(Event):
    """An event with fields of many types."""

    number: float = 0.0
    pair: tuple[int, ...] = ()
    anything: Any = None


class Other(Event):
    """An event that the handler's annotation does not name."""


class Bare(Event):
    """The only event of Strict."""


acts: list[Act] = []


class Free(Entity):
    """Journaled; its handler runs the test's function."""

    number: float = 0.0
    pair: tuple[int, ...] = ()
    anything: Any = None
    count: int = 0

    @command
    def do(self, _cmd: Do, ctx: Context) -> Grown | tuple[Grown, ...] | InsufficientFunds | None:
        return acts[-1](self, ctx)  # type: ignore[no-any-return]

    @event
    def grown(self, evt: Grown) -> Self:
        return self.replace(number=evt.number, pair=evt.pair, anything=evt.anything, count=self.count + 1)

    @event
    def other(self, evt: Other) -> Self:
        return self

    @reply
    def answered(self, answer: Deposited | Undelivered) -> None:
        return None


class Strict(Entity):
    """Journaled; its handlers may return exactly one or two events."""

    @command
    def do(self, _cmd: Do, ctx: Context) -> tuple[Bare, Bare]:
        return acts[-1](self, ctx)  # type: ignore[no-any-return]

    @command
    def one(self, _cmd: Hold, ctx: Context) -> Bare:
        return acts[-1](self, ctx)  # type: ignore[no-any-return]

    @event
    def bare(self, _evt: Bare) -> Self:
        return acts[-1](self, None) if len(acts) > 1 else self  # type: ignore[no-any-return, arg-type]


class Loose(Entity):
    """Stateful; its handler runs the test's function."""

    number: float = 0.0
    name: str = ""

    @command
    def do(self, _cmd: Do, ctx: Context) -> Self | InsufficientFunds | None:
        return acts[-1](self, ctx)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def no_acts() -> None:
    acts.clear()


def run(entity: Entity, act: Act, message: Command = Do()) -> Any:  # noqa: B008  frozen
    acts[:] = [act]
    return TestKit(entity).run(message)


def refused(entity: Entity, act: Act, message: Command = Do()) -> str:  # noqa: B008  frozen
    """Return the sentence of a contract violation; the state must be unchanged."""
    kit = TestKit(entity)
    acts[:] = [act]
    with pytest.raises(ContractViolation) as error:
        kit.run(message)
    assert kit.state == entity
    return str(error.value)


# --- the contract ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [5, "x", Other(), Done(), Withdraw(amount=1), Undelivered(reason=""), [Grown()], (Grown(), Other()),
     (Grown(), None),
     (Grown(), InsufficientFunds(balance=0)), (InsufficientFunds(balance=0),), Free(), (Grown(), Free()), Grown, {}],
    ids=repr,
)  # fmt: skip
def test_a_result_outside_the_annotation_is_a_failure(result: object) -> None:
    """A handler returns what its annotation names, and tuples only of events; any other result is a failure."""
    said = refused(Free(), lambda _, __: result)
    assert "<@command Free.do> returned" in said
    assert " ;" not in said
    assert "  " not in said


def test_a_tuple_is_refused_where_the_annotation_names_one_event() -> None:
    """A tuple without an annotation for it, and no event where the annotation names one, are failures."""
    assert "returned tuple" in refused(Strict(), lambda _, __: (Bare(),), Hold())
    assert "returned no event" in refused(Strict(), lambda _, __: ())


def test_an_event_handler_must_return_its_entity() -> None:
    """An event handler that returns another type is a failure of the entity, before any replay."""
    kit = TestKit(Strict())
    acts[:] = [lambda *_: None, lambda _, ctx: Bare() if ctx else 5]  # The event handler calls it without a context.
    with pytest.raises(ContractViolation, match=r"<@event Strict.bare> returned int, not Strict"):
        kit.run(Hold())


@pytest.mark.parametrize("how", ["list", "dict", "set"])
def test_a_change_in_place_is_a_failure_and_is_undone(how: str) -> None:
    """A handler that changes a list, dict or set of its entity fails, and the entity is restored."""
    kit = TestKit(Bag(items=["a"], counts={"b": 1}, seen={"c"}))
    with pytest.raises(ContractViolation, match=r"<@command Bag.spoil> changed its entity in place"):
        kit.run(Spoil(how=how))
    assert kit.state == Bag(items=["a"], counts={"b": 1}, seen={"c"})
    kit.run(Put(item="z"))
    assert kit.state.items == ["a", "z"]


def test_a_change_in_place_before_an_exception_is_undone() -> None:
    """Changes in place before an exception are undone too."""
    kit = TestKit(Bag())
    with pytest.raises(RuntimeError):
        kit.run(Spoil(how="raise"))
    assert kit.state == Bag()


def test_a_normalised_state_is_not_taken_for_one_changed_in_place() -> None:
    """A float field that was given an int does not fail the next command of an entity with mutable fields."""
    kit = TestKit(Bag(weight=2))
    kit.run(Spoil())
    assert kit.run(Put(item="a")).state.weight == 1.0


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3), st.lists))
def test_any_state_with_mutable_fields_takes_a_command_that_leaves_it_alone(anything: object) -> None:
    """The comparison of bytes has no false alarm: the state after one decision is valid input for the next."""
    kit = TestKit(Free(anything=anything, number=1))
    acts[:] = [lambda state, _: Grown(anything=state.anything, number=7)]
    kit.run(Do())
    assert kit.run(Do()).state == Free(anything=anything, number=7.0, count=2)


# --- encoding -------------------------------------------------------------------------------------------------


def test_a_value_that_could_not_be_restored_fails_when_it_is_made() -> None:
    """A state or event that its own class cannot decode is a failure of the entity, not of every restore."""
    assert "could not be restored" in refused(Loose(), lambda state, _: state.replace(name=5))
    kit = TestKit(Free())
    acts[:] = [lambda *_: Grown(number="x")]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected `float`"):
        kit.run(Do())
    acts[:] = [lambda *_: Grown(anything=object())]
    with pytest.raises(TypeError):
        kit.run(Do())
    acts[:] = [lambda *_: Grown(anything=2**70)]
    with pytest.raises(OverflowError):
        kit.run(Do())
    assert kit.state == Free()


def test_a_value_too_deep_for_a_replay_fails_when_it_is_made() -> None:
    """An event or state nested deeper than a decoder accepts is a failure of the entity, not of every restore."""
    deep: Any = []
    for _ in range(40):
        deep = [deep]
    assert "nested deeper than 32" in refused(Free(), lambda *_: Grown(anything=deep))


def test_live_and_replayed_values_are_equal() -> None:
    """An int in a float field, and a list for a tuple, are converted at once, as a replay would."""
    state = run(Free(), lambda *_: Grown(number=3, pair=[1, 2])).state  # type: ignore[arg-type]
    assert (state.number, type(state.number), state.pair) == (3.0, float, (1, 2))
    state = run(Loose(), lambda state, _: state.replace(number=3)).state
    assert type(state.number) is float


def test_defaults_are_decoded_as_in_a_restore() -> None:
    """Defaults are decoded as in a restore, and refused if that fails."""

    class Early(Entity):
        weight: float = 0

        @command
        def do(self, cmd: Do) -> Self:
            assert type(self.weight) is float
            return self

    TestKit(Early()).run(Do())
    with pytest.raises(DefinitionError, match="Wrong: its defaults do not match its annotations"):

        class Wrong(Entity):
            weight: float = "x"  # type: ignore[assignment]

            @command
            def do(self, cmd: Do) -> Self:
                return self


LARGE = "x" * 1_000_000


@pytest.mark.parametrize(
    "act",
    [
        lambda *_: Grown(anything=LARGE),
        lambda _, ctx: ctx.tell(Teller.pay, "k", Pay(account=LARGE, amount=1)),
        lambda _, ctx: ctx.publish("elsewhere", Grown(anything=LARGE)),
        lambda _, ctx: ctx.publish("elsewhere", LARGE.encode()),
        lambda _, ctx: ctx.reply(Grown(anything=LARGE)),
    ],
    ids=["event", "tell", "publish", "publish bytes", "reply"],
)
def test_an_output_over_the_bound_is_output_too_large(act: Act) -> None:
    """Any output over output_bytes_max, raw bytes included, is OutputTooLarge."""
    kit = TestKit(Free(), publishes=["elsewhere"])
    acts[:] = [act]
    with pytest.raises(OutputTooLarge):
        kit.run(Do())
    assert kit.state == Free()


def test_a_state_that_grew_too_large_fails() -> None:
    """An entity's state must fit into a record too."""

    def grow(state: Loose, _ctx: Context) -> Loose:
        return state.replace(name=LARGE)

    with pytest.raises(OutputTooLarge):
        run(Loose(), grow)


def test_a_message_that_its_receiver_could_not_decode_is_a_failure_of_its_sender() -> None:
    """A message that cannot be decoded is not sent; an asker would wait for ever."""
    wrong = Deposit(amount="much")  # type: ignore[arg-type]
    assert "could not be decoded" in refused(Free(), lambda _, ctx: ctx.tell(Account.deposit, "k", wrong))
    balance = InsufficientFunds(balance="none")  # type: ignore[arg-type]
    assert "could not be decoded" in refused(Free(), lambda *_: balance)
    assert "could not be decoded" in refused(Free(), lambda _, ctx: ctx.reply(balance))


# --- replies --------------------------------------------------------------------------------------------------


def test_the_reply_is_the_returned_value() -> None:
    """The event, the last event of a tuple, or the rejection; Done for None, Self and an empty tuple."""
    assert run(Free(), lambda *_: Grown(number=1)).reply == Grown(number=1)
    assert TestKit(Account()).run(Split(amounts=(1, 2))).reply == Deposited(amount=2)
    assert TestKit(Account()).run(Split(amounts=())).reply == Done()
    assert TestKit(Account()).run(Withdraw(amount=2)).reply == InsufficientFunds(balance=0)
    assert run(Free(), lambda *_: None).reply == Done()
    assert run(Loose(), lambda state, _: state).reply == Done()


def test_an_explicit_reply_replaces_the_returned_value() -> None:
    """``ctx.reply`` answers in place of the result, once, with a type that the annotation names."""

    def act(_: object, ctx: Context) -> Grown:
        ctx.reply(Grown(number=2))
        return Grown(number=1)

    acts[:] = [act]
    bench = Bench(Free)
    bench.ask(Do())
    bench.run()
    assert [answer["number"] for answer in bench.replies] == [2]
    assert "replies twice" in refused(Free(), lambda _, ctx: (ctx.reply(Grown()), ctx.reply(Grown()))[:0] or None)
    assert "replies Other; its annotation names" in refused(Free(), lambda _, ctx: ctx.reply(Other()))
    assert "replies Undelivered" in refused(Free(), lambda _, ctx: ctx.reply(Undelivered(reason="")))
    assert "replies Done; its annotation names Bare" in refused(Strict(), lambda _, ctx: ctx.reply(Done()), Hold())


def test_a_handler_that_keeps_the_sender_answers_later() -> None:
    """A handler that keeps ``ctx.sender`` in the state sends no answer; ``ctx.reply(…, to=sender)`` answers later."""
    bench = Bench(Desk)
    for name in ("a", "b"):
        bench.ask(Hold(), correlation_id=name)
    bench.run()
    assert bench.replies == []
    bench.crash()
    bench.ask(Release(), correlation_id="c")
    bench.run()
    answered = [(r.header("correlation-id"), r.value) for r in bench.topics["t.replies"]]
    assert [name for name, _ in answered] == [b"a", b"b", b"c"]


def test_a_reply_handler_sends_no_answer() -> None:
    """The result of a ``@reply`` method is not sent, even if the answer has a ``reply-to`` header."""
    bench = Bench(Teller, others=[Account])
    bench.tell(Withdrawn(amount=3), headers=(("reply-to", b"t.replies/0"),))
    bench.run()
    assert bench.replies == []
    assert bench.shard.cells.get("k").state == Teller(paid=3)


@pytest.mark.parametrize(
    "to",
    [
        Sender(topic="t.nowhere", partition=0),
        Sender(topic="t.replies", partition=8),
        Sender(topic="t.replies", partition=-1),
        Sender(topic="t.replies"),
        Sender(topic="t.free.commands", key="k" * 256),
        Sender(topic="t.replies", partition=0, correlation_id="x" * 256),
        Sender(topic="t.replies", partition=0, about="x" * 256),
        Sender(topic="t.replies", partition=0, about="\udc80"),
    ],
    ids=repr,
)
def test_a_reply_to_an_invalid_sender_is_a_failure_of_the_entity(to: Sender) -> None:
    """An answer that cannot be written is refused before it is in a transaction that could never commit."""
    acts[:] = [lambda _, ctx: ctx.reply(Grown(), to=to)]
    bench = Bench(Free)
    bench.tell(Do())
    result = bench.run().shard
    assert result.stash.size == 1
    assert bench.replies == []


def test_an_ask_needs_a_method_for_each_answer() -> None:
    """``ctx.ask`` fails unless this entity takes every possible answer, Undelivered included."""

    class Deaf(Entity):
        @command
        def do(self, cmd: Do, ctx: Context) -> None:
            ctx.ask(Account.deposit, "k", Deposit(amount=1))

        @reply
        def deposited(self, answer: Deposited) -> None:
            return None

    with pytest.raises(ContractViolation, match="may answer Undelivered; write a @reply method that takes it"):
        TestKit(Deaf()).run(Do())
    deposit = Deposit(amount=1)
    acts[:] = [lambda _, ctx: ctx.ask(Account.deposit, "k", deposit, about="x")]
    (sent,) = TestKit(Free()).run(Do()).sent
    assert (sent.handler, sent.key, sent.message, sent.asked, sent.about) == (
        Account.deposit, "k", deposit, True, "x",
    )  # type: ignore[union-attr]  # fmt: skip
    assert "may answer Done" in refused(Free(), lambda _, ctx: ctx.ask(Account.split, "k", Split(amounts=())))
    assert "about has at most 255 bytes" in refused(
        Free(), lambda _, ctx: ctx.ask(Account.deposit, "k", deposit, about="x" * 256)
    )


def test_an_address_must_exist() -> None:
    """The handler, the hosted entity, the message type, the key and the topic of an output are checked."""
    deposit = Deposit(amount=1)
    assert "is not a @command method" in refused(Free(), lambda _, ctx: ctx.tell("deposit", "k", deposit))
    assert "is not a @command method" in refused(Free(), lambda _, ctx: ctx.tell(Account.deposited, "k", deposit))
    assert "does not take Withdraw" in refused(
        Free(), lambda _, ctx: ctx.tell(Account.deposit, "k", Withdraw(amount=1))
    )
    for key in ("", "k" * 256, "\0", "\udc80", b"k", None):
        with pytest.raises(ValueError):  # noqa: PT011  UnicodeEncodeError has a sentence of Python's own
            run(Free(), lambda _, ctx, key=key: ctx.tell(Account.deposit, key, deposit))
    bench = Bench(Free)
    acts[:] = [lambda _, ctx: ctx.tell(Account.deposit, "k", deposit)]
    bench.tell(Do())
    bench.run()
    assert "Account is not hosted by this system" in next(iter(bench.shard.stash.queue("k"))).record.reason


def test_only_declared_topics_can_be_published_to() -> None:
    """A missing topic would block the transaction, and a record in one of the system's own topics would corrupt it."""
    bench = Bench(Free, extra_partitions={"outside": 3})
    acts[:] = [lambda _, ctx: ctx.publish("outside", b"raw", key="k")]
    bench.tell(Do())
    bench.fetch()
    result = bench.turn()
    assert result is not None
    assert result.outputs == [Published("outside", "k", b"raw", 0, 0)]
    for topic in ("nowhere", "t.free.events"):
        acts[:] = [lambda _, ctx, topic=topic: ctx.publish(topic, b"raw")]
        bench.tell(Do(), topic)
        bench.run()
        said = f"publish to {topic!r}: the system does not declare it; say ActorSystem(…, publishes="
        assert said in bench.shard.stash.queue(topic)[0].record.reason


# --- facts ----------------------------------------------------------------------------------------------------


def test_random_draws_and_ids_come_from_the_cause() -> None:
    """Draws and ids are the same at every attempt of a command, and differ between commands."""
    drawn: list[Any] = []

    def act(_: object, ctx: Context) -> None:
        drawn.append((ctx.random.random(), ctx.random.random(), ctx.new_id(), ctx.new_id(), ctx.cause))
        if ctx.attempt == 1:
            raise RuntimeError

    acts[:] = [act]
    bench = Bench(Free)
    bench.tell(Do())
    bench.tell(Do())
    bench.settle()
    first, again, second, _ = drawn
    assert first == again != second
    assert len({*first, *second}) == 10


def test_a_handler_knows_its_attempt_and_its_command() -> None:
    """Key, sender, timestamp and attempt are those of the record."""
    seen: list[Any] = []

    def act(_: object, ctx: Context) -> None:
        seen.append((ctx.attempt, ctx.key, ctx.sender, ctx.timestamp.timestamp()))
        if ctx.attempt < 3:
            raise RuntimeError

    acts[:] = [act]
    bench = Bench(Free)
    bench.tell(Do(), "kéy")
    bench.settle()
    assert seen == [(attempt, "kéy", None, 1_700_000_000.0) for attempt in (1, 2, 3)]


# --- the end of a life ----------------------------------------------------------------------------------------


def test_a_rejection_discards_what_was_collected() -> None:
    """A handler that returns a Rejection sends nothing and does not stop the entity."""

    def act(_: object, ctx: Context) -> InsufficientFunds:
        ctx.tell(Account.deposit, "k", Deposit(amount=1))
        ctx.reply(Grown())
        ctx.stop()
        return InsufficientFunds(balance=3)

    outcome = run(Free(count=4), act)
    assert (outcome.sent, outcome.events, outcome.stopped, outcome.state) == ((), (), False, Free(count=4))
    assert outcome.reply == InsufficientFunds(balance=3)


def test_a_stopped_entity_begins_anew() -> None:
    """``stop()`` writes the events, then the end of the life as the next version; after it the defaults apply."""

    def act(_: object, ctx: Context) -> Grown:
        ctx.stop()
        return Grown(number=1)

    acts[:] = [lambda *_: Grown(number=9)]
    bench = Bench(Free)
    bench.tell(Do())
    bench.run()
    acts[:] = [act]
    bench.ask(Do())
    bench.run()
    acts[:] = [lambda *_: Grown(number=5)]
    bench.tell(Do())
    bench.run()
    versions = [(record.header("version"), value["type"]) for record, value in
                zip(bench.topics["t.free.events"], bench.journal, strict=True)]  # fmt: skip
    assert versions == [(b"1", "Grown"), (b"2", "Grown"), (b"3", "Stopped"), (b"1", "Grown")]
    assert [reply["number"] for reply in bench.replies] == [1.0]
    assert bench.shard.cells.get("k").state == Free(number=5.0, count=1)


class Fill(Command):
    """A command that can be changed in place."""

    items: list[int]


class Basket(Entity):
    """Changes its command in place before it fails."""

    items: tuple[int, ...] = ()

    @command
    def fill(self, cmd: Fill, ctx: Context) -> Self:
        cmd.items.append(ctx.attempt)
        if ctx.attempt < 3:
            raise RuntimeError
        return self.replace(items=tuple(cmd.items))


def test_each_attempt_gets_the_command_as_it_came() -> None:
    """Changes that a failing handler made to the lists of its command are not visible at the next attempt."""
    bench = Bench(Basket)
    bench.tell(Fill(items=[0]))
    bench.settle()
    assert bench.shard.cells.get("k").state == Basket(items=(0, 3))
