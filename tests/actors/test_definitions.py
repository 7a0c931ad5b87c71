"""Every mistake in a class definition has its own sentence, with the class, the member and the remedy."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

import msgspec
import pytest

from repertory import (
    Answer,
    Command,
    Context,
    DefinitionError,
    Entity,
    Event,
    Query,
    Rejection,
    Stopped,
    TestKit,
    command,
    event,
    query,
    reply,
)
from repertory.actors.entity import resolved
from repertory.actors.fields import flaw
from repertory.actors.wire import MessageDecoder, encode
from tests.actors.domain import (
    Account,
    Balance,
    Deposit,
    Deposited,
    GetBalance,
    InsufficientFunds,
    Withdraw,
    Withdrawn,
)


class GetMore(Query):
    """A second query."""


class Strange:
    """Neither a message nor an entity."""


def async_command() -> None:
    class Bad(Entity):
        @command
        async def handler(self, cmd: Deposit) -> None: ...


def generator_command() -> None:
    class Bad(Entity):
        @command
        def handler(self, _cmd: Deposit) -> None:
            yield


def async_event() -> None:
    class Bad(Entity):
        @event
        async def handler(self, evt: Deposited) -> Self: ...


def no_argument_annotation() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd) -> None: ...  # type: ignore[no-untyped-def]


def foreign_argument() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Strange) -> None: ...


def event_as_command() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposited) -> None: ...


def command_as_reply() -> None:
    class Bad(Entity):
        @reply
        def handler(self, answer: Deposit) -> None: ...


def rejection_as_event() -> None:
    class Bad(Entity):
        @event
        def handler(self, evt: InsufficientFunds) -> Self: ...


def base_as_command() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Command) -> None: ...


def stopped_as_event() -> None:
    class Bad(Entity):
        @event
        def handler(self, evt: Stopped) -> Self: ...


def union_argument() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit | Withdraw) -> None: ...


def union_event() -> None:
    class Bad(Entity):
        @event
        def handler(self, evt: Deposited | Withdrawn) -> Self: ...


def third_parameter_is_no_context() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit, ctx: Strange) -> None: ...


def third_parameter_without_annotation() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit, ctx) -> None: ...  # type: ignore[no-untyped-def]


def four_parameters() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit, ctx: Context, more: int) -> None: ...  # type: ignore[arg-type]


def no_parameter() -> None:
    class Bad(Entity):
        @command
        def handler(self) -> None: ...  # type: ignore[arg-type]


def keyword_parameter() -> None:
    class Bad(Entity):
        @command
        def handler(self, *, cmd: Deposit) -> None: ...  # type: ignore[arg-type]


def event_with_context() -> None:
    class Bad(Entity):
        @event
        def handler(self, evt: Deposited, ctx: Context) -> Self: ...  # type: ignore[arg-type]


def no_return_annotation() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit): ...  # type: ignore[no-untyped-def]


def foreign_return() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> Strange: ...


def command_returned() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> Deposit: ...


def tuple_with_a_rejection() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> tuple[Deposited | InsufficientFunds, ...]: ...

        @event
        def deposited(self, evt: Deposited) -> Self: ...


def tuple_with_self() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> tuple[Self, ...]: ...


def bare_tuple() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> tuple: ...  # type: ignore[type-arg]


def empty_tuple() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> tuple[()]: ...


def list_of_events() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> list[Deposited]: ...


def event_handler_returns_none() -> None:
    class Bad(Entity):
        @event
        def handler(self, evt: Deposited) -> None: ...  # type: ignore[arg-type]


def stopped_returned() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> Stopped: ...


def event_without_event_method() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> Deposited: ...

        @event
        def withdrawn(self, evt: Withdrawn) -> Self: ...


def two_handlers_for_one_message() -> None:
    class Bad(Entity):
        @command
        def first(self, cmd: Deposit) -> None: ...

        @command
        def handler(self, cmd: Deposit) -> None: ...


def two_replies_for_one_message() -> None:
    class Bad(Entity):
        @command
        def first(self, cmd: Deposit) -> None: ...

        @reply
        def second(self, answer: Deposited | Withdrawn) -> None: ...

        @reply
        def handler(self, answer: Withdrawn) -> None: ...


def journaled_and_stateful() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> Self: ...

        @event
        def deposited(self, evt: Deposited) -> Self: ...


def handler_of_another_entity() -> None:
    class Bad(Entity):
        handler = Account.deposit


def field_and_handler_of_one_name() -> None:
    class Bad(Entity):
        handler: int = 0

        @command
        def handler(self, cmd: Deposit) -> None: ...  # type: ignore[no-redef]  # noqa: F811


def annotation_that_cannot_be_read() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit.nothing) -> None: ...  # type: ignore[name-defined]


def not_a_method() -> None:
    class Bad(Entity):
        @command
        @event
        def handler(self, evt: Deposited) -> Self: ...  # type: ignore[arg-type]


def async_query() -> None:
    class Bad(Entity):
        @query
        async def handler(self, ask: GetBalance) -> Balance: ...


def generator_query() -> None:
    class Bad(Entity):
        @query
        def handler(self, _ask: GetBalance) -> Balance:
            yield


def query_with_context() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance, ctx: Context) -> Balance: ...


def query_without_parameter() -> None:
    class Bad(Entity):
        @query
        def handler(self) -> Balance: ...


def query_with_keyword() -> None:
    class Bad(Entity):
        @query
        def handler(self, *, ask: GetBalance) -> Balance: ...


def query_without_annotation() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask) -> Balance: ...


def query_takes_a_command() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: Deposit) -> Balance: ...


def query_takes_an_event() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: Deposited) -> Balance: ...


def query_takes_the_base() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: Query) -> Balance: ...


def query_takes_a_union() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance | GetMore) -> Balance: ...


def query_without_return() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance): ...


def query_returns_an_event() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance) -> Deposited: ...


def query_returns_self() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance) -> Self: ...


def query_returns_none() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance) -> None: ...


def query_may_return_none() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance) -> Balance | None: ...


def query_returns_a_tuple() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance) -> tuple[Balance, ...]: ...


def query_returns_the_base() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance) -> Answer: ...


def query_returns_something_else() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance) -> Strange: ...


def command_takes_a_query() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: GetBalance) -> None: ...


def reply_takes_a_query() -> None:
    class Bad(Entity):
        @reply
        def handler(self, answer: GetBalance) -> None: ...


def event_takes_an_answer() -> None:
    class Bad(Entity):
        @event
        def handler(self, evt: Balance) -> Self: ...


def command_returns_an_answer() -> None:
    class Bad(Entity):
        @command
        def handler(self, cmd: Deposit) -> Balance: ...


def two_queries_for_one_message() -> None:
    class Bad(Entity):
        @command
        def deposit(self, cmd: Deposit) -> None: ...

        @query
        def first(self, ask: GetBalance) -> Balance: ...

        @query
        def handler(self, ask: GetBalance) -> Balance: ...


def only_queries() -> None:
    class Bad(Entity):
        @query
        def handler(self, ask: GetBalance) -> Balance: ...


def query_and_command() -> None:
    class Bad(Entity):
        @query
        @command
        def handler(self, ask: Deposit) -> Balance: ...


HANDLER_MISTAKES: list[tuple[Callable[[], None], str]] = [
    (async_command, "is async"),
    (generator_command, "is a generator"),
    (async_event, "is async"),
    (no_argument_annotation, "has no annotation for 'cmd'"),
    (foreign_argument, "takes Strange as 'cmd', which is not a Command class"),
    (event_as_command, "takes Deposited as 'cmd', which is not a Command class"),
    (command_as_reply, "takes Deposit as 'answer', which is not an Event or a Rejection class"),
    (rejection_as_event, "takes InsufficientFunds as 'evt', which is not an Event class"),
    (base_as_command, "takes Command as 'cmd', which is not a Command class"),
    (stopped_as_event, "takes Stopped"),
    (union_argument, "takes a union as 'cmd'; write one method for each message"),
    (union_event, "takes a union as 'evt'; write one method for each message"),
    (third_parameter_is_no_context, "second argument, which must be annotated Context"),
    (third_parameter_without_annotation, "second argument, which must be annotated Context"),
    (four_parameters, "must take (self, cmd) or (self, cmd, ctx)"),
    (no_parameter, "must take (self, cmd) or (self, cmd, ctx)"),
    (keyword_parameter, "must take (self, cmd) or (self, cmd, ctx)"),
    (event_with_context, "must take (self, evt)"),
    (no_return_annotation, "has no return annotation"),
    (foreign_return, "is annotated to return Strange"),
    (command_returned, "is annotated to return Deposit;"),
    (tuple_with_a_rejection, "is annotated to return InsufficientFunds within a tuple, which can only contain events"),
    (tuple_with_self, "within a tuple, which can only contain events"),
    (bare_tuple, "is annotated to return tuple"),
    (empty_tuple, "is annotated to return"),
    (list_of_events, "is annotated to return list"),
    (event_handler_returns_none, "an event handler returns Self"),
    (stopped_returned, "is annotated to return Stopped"),
    (event_without_event_method, "returns Deposited, which no @event method of Bad takes; write one"),
    (two_handlers_for_one_message, "takes Deposit, and so does Bad.first; a message has one handler"),
    (two_replies_for_one_message, "takes Withdrawn, and so does Bad.second; a message has one handler"),
    (journaled_and_stateful, "journaled or stateful, never both"),
    (handler_of_another_entity, "belongs to Account"),
    (field_and_handler_of_one_name, "is a field and a handler"),
    (annotation_that_cannot_be_read, "has an annotation that cannot be read"),
    (not_a_method, "is decorated twice"),
    (async_query, "is async; a handler decides at once"),
    (generator_query, "is a generator; return one Answer instead of yielding it"),
    (
        query_with_context,
        "must take (self, ask); a query sends and stops nothing, so drop its context, or make it a @command",
    ),
    (query_without_parameter, "must take (self, ask)."),
    (query_with_keyword, "must take (self, ask)."),
    (query_without_annotation, "has no annotation for 'ask'; annotate it with a Query"),
    (query_takes_a_command, "takes Deposit as 'ask', which is a Command; make it a @command method"),
    (query_takes_an_event, "takes Deposited as 'ask', which is not a Query class"),
    (query_takes_the_base, "takes Query as 'ask', which is not a Query class"),
    (query_takes_a_union, "takes a union as 'ask'; write one method for each message"),
    (query_without_return, "has no return annotation"),
    (
        query_returns_an_event,
        "is annotated to return Deposited, an Event; a query writes nothing: return Answer classes",
    ),
    (query_returns_self, "a query changes no state: return Answer classes or Rejection classes, or make it a @command"),
    (
        query_returns_none,
        "is annotated to return None; an asker waits for its answer: return Answer classes or Rejection classes",
    ),
    (query_may_return_none, "is annotated to return None; an asker waits"),
    (query_returns_a_tuple, "a query has one answer: put the values into the fields of an Answer"),
    (
        query_returns_the_base,
        "is annotated to return Answer itself, which has no fields; name the classes that it returns",
    ),
    (
        query_returns_something_else,
        "is annotated to return Strange, which is no Answer; return Answer classes or Rejection classes",
    ),
    (command_takes_a_query, "takes GetBalance as 'cmd', which is a Query; make it a @query method"),
    (reply_takes_a_query, "takes GetBalance as 'answer', which is a Query; make it a @query method"),
    (event_takes_an_answer, "takes Balance as 'evt', which is not an Event class"),
    (command_returns_an_answer, "is annotated to return Balance, an Answer, which only a @query method returns"),
    (two_queries_for_one_message, "takes GetBalance, and so does Bad.first; a message has one handler"),
    (only_queries, "is of an entity without a @command method, whose state never changes; write one"),
    (query_and_command, "is decorated twice; a method is one of @command, @reply, @event and @query"),
]


@pytest.mark.parametrize(("define", "sentence"), HANDLER_MISTAKES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_mistake_in_a_handler_has_its_own_sentence(define: Callable[[], None], sentence: str) -> None:
    """A handler that breaks a rule is refused when its class is defined; the error names the class and the method."""
    with pytest.raises(DefinitionError) as refused:
        define()
    said = str(refused.value)
    assert sentence in said
    assert "Bad" in said
    assert "Bad.handler" in said or define is journaled_and_stateful
    assert said.endswith(".")
    assert "\n" not in said


def field_called_type() -> None:
    class Bad(Event):
        type: str


def entity_field_called_type() -> None:
    class Bad(Entity):
        type: str = ""


def field_renamed_type() -> None:
    class Bad(Event, rename={"kind": "type"}):
        kind: str


def array_message() -> None:
    class Bad(Event, array_like=True):
        kind: str


def nameless() -> None:
    class Bad(Event, name=""):
        kind: str


def numbered() -> None:
    class Bad(Event, name=5):  # type: ignore[arg-type]
        kind: str


def secret() -> None:
    class Bad(Event, name="\0never"):
        kind: str


def override_replace() -> None:
    class Bad(Entity):
        def replace(self, **changes: Any) -> Self: ...


def field_called_replace() -> None:
    class Bad(Entity):
        replace: int = 0  # type: ignore[assignment]


def no_default() -> None:
    class Bad(Entity):
        balance: int

        @command
        def deposit(self, cmd: Deposit) -> None: ...


def subclass_of_an_entity() -> None:
    class Bad(Account):
        pass


def no_handler() -> None:
    class Bad(Entity):
        balance: int = 0


def mixed_in() -> None:
    class Mixin:
        @command
        def deposit(self, cmd: Deposit) -> None: ...

    class Bad(Mixin, Entity):
        pass


def odd_entity_name() -> None:
    class Bad(Entity, name="Bad_Café"):
        @command
        def deposit(self, cmd: Deposit) -> None: ...


def long_entity_name() -> None:
    class Bad(Entity, name="Bad" * 50):
        @command
        def deposit(self, cmd: Deposit) -> None: ...


class Twin(Event, name="Deposited"):
    """An event with the wire name of another event."""


class CommandTwin(Command, name="Deposited"):
    """A command with the wire name of an event."""


class RejectionTwin(Rejection, name="Deposited"):
    """A rejection with the wire name of an event."""


def two_events_with_one_wire_name() -> None:
    class Bad(Entity):
        @command
        def first(self, cmd: Deposit) -> None: ...

        @event
        def deposited(self, evt: Deposited) -> Self: ...

        @event
        def twin(self, evt: Twin) -> Self: ...


def command_and_event_with_one_wire_name() -> None:
    class Bad(Entity):
        @command
        def first(self, cmd: CommandTwin) -> Deposited: ...

        @event
        def deposited(self, evt: Deposited) -> Self: ...


def rejection_and_event_with_one_wire_name() -> None:
    class Bad(Entity):
        @command
        def first(self, cmd: Deposit) -> Deposited | RejectionTwin: ...

        @event
        def deposited(self, evt: Deposited) -> Self: ...


def event_with_the_wire_name_of_stopped() -> None:
    class Gone(Event, name="Stopped"):
        pass

    class Bad(Entity):
        @command
        def first(self, cmd: Deposit) -> None: ...

        @event
        def gone(self, evt: Gone) -> Self: ...


class Mixed(enum.Enum):
    """Values that are neither all str nor all int."""

    ONE = 1
    TWO = "two"


class Shade(enum.Enum):
    """Text values, but not a subclass of str: as a key it cannot be sorted."""

    DARK = "dark"


class Plain(enum.Enum):
    """Is not text, nor a number."""

    ONE = "one"


class Page(msgspec.Struct, frozen=True):
    """Has a field that cannot be written."""

    counts: dict[int, int] = {}


def map_by_number() -> None:
    class Bad(Command):
        counts: dict[int, str]


def map_by_enum_in_a_list() -> None:
    class Bad(Event):
        counts: list[dict[Shade, int]]


def map_by_text_or_number() -> None:
    class Bad(Rejection):
        counts: dict[str | int, int] | None


def map_within_a_struct() -> None:
    class Bad(Command):
        pages: tuple[Page, ...]


def map_in_a_state() -> None:
    class Bad(Entity):
        counts: dict[int, int] | None = None

        @command
        def deposit(self, cmd: Deposit) -> Self: ...


def mixed_enum() -> None:
    class Bad(Event):
        kind: Mixed | None = None


def mixed_enum_as_key() -> None:
    class Bad(Event):
        kinds: dict[Mixed, int]


def mixed_enum_in_a_state() -> None:
    class Bad(Entity):
        kind: Mixed = Mixed.ONE

        @command
        def deposit(self, cmd: Deposit) -> Self: ...


def set_of_structs() -> None:
    class Bad(Command):
        pages: frozenset[Page]


def set_of_enums() -> None:
    class Bad(Event):
        shades: set[Plain]


def set_of_anything() -> None:
    class Bad(Entity):
        names: frozenset[tuple[str | None, int]] = frozenset()

        @command
        def deposit(self, cmd: Deposit) -> Self: ...


def foreign_field() -> None:
    class Bad(Command):
        what: list[Strange]


CLASS_MISTAKES: list[tuple[Callable[[], None], str]] = [
    (field_called_type, "Bad.type: no field can be called 'type'"),
    (entity_field_called_type, "Bad.type: no field can be called 'type'"),
    (field_renamed_type, "conflicts with an existing field"),
    (array_message, "Bad: a message is written as a map"),
    (nameless, "Bad: name="),
    (numbered, "Bad: name="),
    (secret, "Bad: name="),
    (override_replace, "Bad.replace overrides Entity.replace"),
    (field_called_replace, "Bad.replace overrides Entity.replace"),
    (no_default, "Bad.balance has no default"),
    (subclass_of_an_entity, "Bad derives from the entity Account"),
    (no_handler, "Bad has no @command method"),
    (mixed_in, "Bad.deposit"),
    (odd_entity_name, "Bad: its topics would be called 'bad_café'"),
    (long_entity_name, "Bad: its topics would be called"),
    (two_events_with_one_wire_name, "Twin have the same wire name, 'Deposited'"),
    (command_and_event_with_one_wire_name, "have the same wire name, 'Deposited'"),
    (rejection_and_event_with_one_wire_name, "have the same wire name, 'Deposited'"),
    (event_with_the_wire_name_of_stopped, "have the same wire name, 'Stopped'"),
    (map_by_number, "Bad.counts is a map with keys of type int, and only str can be a key; use dict[str, …] or"),
    (map_by_enum_in_a_list, "Bad.counts is a map with keys of type Shade, and only str can be a key"),
    (map_by_text_or_number, "Bad.counts is a map with keys of type union, and only str can be a key"),
    (map_within_a_struct, "Bad.pages holds Page, whose counts is a map with keys of type int"),
    (map_in_a_state, "Bad.counts is a map with keys of type int"),
    (mixed_enum, "Bad.kind has a type that cannot be written: Enums must contain either all str or all int values"),
    (mixed_enum_as_key, "Bad.kinds has a type that cannot be written: Enums must contain either all str or all int"),
    (mixed_enum_in_a_state, "Bad.kind has a type that cannot be written: Enums must contain either all str or"),
    (set_of_structs, "Bad.pages is a set of Page (without order=True), which have no order, and equal sets must give"),
    (set_of_enums, "Bad.shades is a set of Plain (without __lt__), which have no order"),
    (set_of_anything, "Bad.names is a set of values of several types, which have no order"),
    (foreign_field, "Bad.what is of type Strange, which cannot be written; use a frozen msgspec.Struct"),
]


@pytest.mark.parametrize(("define", "sentence"), CLASS_MISTAKES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_mistake_in_a_class_has_its_own_sentence(define: Callable[[], None], sentence: str) -> None:
    """A class that breaks a rule is refused when it is defined; the error names it."""
    with pytest.raises(DefinitionError) as refused:
        define()
    assert sentence in str(refused.value)
    assert str(refused.value).endswith(".")


def test_values_cannot_be_changed_misspelt_or_given_by_position() -> None:
    """Messages and entities are frozen, keyword-only, and accept only the fields that they define."""
    for wrong in (lambda: Deposit(5), lambda: Deposit(amont=5), Deposit, lambda: Account(5)):
        with pytest.raises(TypeError):
            wrong()  # type: ignore[no-untyped-call]
    for value in (Deposit(amount=1), Account()):
        with pytest.raises(AttributeError):
            value.amount = 2  # type: ignore[union-attr, misc]
    with pytest.raises(TypeError):
        Account().replace(balanc=1)


class Colour(enum.StrEnum):
    """An enum with text values."""

    RED = "red"


class Size(enum.IntEnum):
    """An enum with numbers."""

    SMALL = 1


class Everything(Event):
    """One field of each type that can be written."""

    by_colour: dict[Colour, Size]
    by_literal: Mapping[Literal["a", "b"], list[Shade]]
    by_text: dict[Annotated[str, msgspec.Meta(min_length=1)], Everything | None]
    anything: Any
    pairs: list[tuple[int, Page2]]
    sets: frozenset[int]
    when: datetime.date | None
    owner: uuid.UUID


class Page2(msgspec.Struct, frozen=True):
    """Defined later; all its fields can be written."""

    title: str = ""


def test_every_accepted_field_type_can_be_written_and_read() -> None:
    """Equal values of every field type give equal bytes, and are decoded to equal values."""
    inner = Everything(
        by_colour={Colour.RED: Size.SMALL}, by_literal={"b": [Shade.DARK], "a": []}, by_text={}, anything={"k": [1]},
        pairs=[(1, Page2(title="t"))], sets=frozenset({3}), when=datetime.date(2024, 2, 29), owner=uuid.UUID(int=5),
    )  # fmt: skip
    value = msgspec.structs.replace(inner, by_text={"x": inner, "w": None}, when=None)
    assert flaw(Everything) is None
    assert MessageDecoder([Everything]).decode(encode(value)) == value


class Late2(Event):
    """The type of its field is defined after the class."""

    pages: list[Bound]


class Bound(msgspec.Struct, frozen=True):
    """Defined later; it cannot be written."""

    counts: dict[int, int] = {}


def test_a_field_whose_type_is_defined_later_is_checked_by_the_entity() -> None:
    """A field that the class statement of a message could not check is checked by the entity that takes the message."""
    with pytest.raises(DefinitionError, match=r"Late2.pages holds Bound, whose counts is a map with keys of type int"):

        class Keeper(Entity):
            @command
            def deposit(self, cmd: Deposit) -> Late2: ...  # type: ignore[empty-body]

            @event
            def late(self, _evt: Late2) -> Self:
                return self


class Early(Entity):
    """Its annotations name classes that are defined later."""

    @command
    def handle(self, cmd: Late) -> LateEvent: ...  # type: ignore[empty-body]

    @event
    def late(self, _evt: LateEvent) -> Self:
        return self


with pytest.raises(DefinitionError, match="Early: an annotation names 'Late', which does not exist"):
    resolved(Early)


class Late(Command):
    """Defined after its handler."""


class LateEvent(Event):
    """Defined after its handler."""


def test_annotations_can_name_classes_defined_later_in_the_module() -> None:
    """An annotation can name a class that the module defines later: it is read again by the first host or TestKit."""
    assert set(resolved(Early).handlers) == {Late}


def test_annotations_can_name_classes_defined_within_a_function() -> None:
    """Classes within a function can name each other, and later ones, although annotations are text in this module."""

    class Local(Command):
        pass

    class Owner(Entity):
        count: int = 0

        @command
        def handle(self, _cmd: Local) -> Self:
            return self.replace(count=1)

        @command
        def handle_later(self, _cmd: Following) -> Self:
            return self.replace(count=2)

    with pytest.raises(DefinitionError, match="Owner: an annotation names 'Following', which does not exist"):
        resolved(Owner)

    class Following(Command):
        pass

    assert TestKit(Owner()).run(Following()).state.count == 2


def test_a_name_that_never_exists_is_refused_with_the_name() -> None:
    """An annotation with a name that does not exist is refused by the first TestKit; the error has the name."""

    class Dangling(Entity):
        @command
        def handle(self, cmd: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DefinitionError, match="Dangling: an annotation names 'Nowhere', which does not exist"):
        TestKit(Dangling())


def test_a_test_kit_says_what_it_takes_and_which_message_is_wrong() -> None:
    """A class instead of an entity, and a field of another type, are named with what to write instead."""
    with pytest.raises(TypeError, match=r"^TestKit takes an entity, as in TestKit\(Account\(\)\), not <class"):
        TestKit(Account)  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"^Deposit cannot be decoded again: Expected `int`.*; correct its fields$"):
        TestKit(Account()).run(Deposit(amount="7"))  # type: ignore[arg-type]


def test_a_class_that_is_not_an_entity_is_refused() -> None:
    """A system only accepts subclasses of Entity."""
    for wrong in (Entity, Strange, Deposit):
        with pytest.raises(DefinitionError, match="is not an Entity class"):
            resolved(wrong)


def test_a_handler_is_an_address_on_the_class_and_a_method_on_an_instance() -> None:
    """``Account.deposit`` is an address to send to; ``Account().deposit(…)`` runs the handler."""
    assert repr(Account.deposit) == "<@command Account.deposit>"
    assert repr(Account.look) == "<@query Account.look>"
    assert Account(balance=1).look(GetBalance()) == Balance(amount=1)
    assert Account(balance=1).withdraw(Withdraw(amount=2)) == InsufficientFunds(balance=1)
    assert Account(balance=1).deposited(Deposited(amount=2)) == Account(balance=3)
