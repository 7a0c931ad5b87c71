"""Versions and former names of messages: what is read, how it is upcast, and every mistake in its own sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory import ActorSystem, Command, DefinitionError, Entity, Event, Raw, TestKit, command, event, upcast
from repertory.actors import evolution
from repertory.actors.entity import behaviour
from repertory.actors.message import Unknown, WireName, wire_name
from repertory.actors.shard.replay import fold, restore
from repertory.actors.wire import DecodeError, MessageDecoder, encode


@pytest.fixture(autouse=True)
def _steps_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the upcasters of one test out of the others."""
    monkeypatch.setattr(evolution, "_steps", {})


def written(name: str, **fields: Any) -> bytes:
    """Return a message as some build wrote it."""
    return encode({"type": name, **fields})


class Paid(Event, name="Settled", version=3, was=("Payed", "Paid")):
    """Its versions: 1 and 2 as Payed, 2 as Paid."""

    cents: int
    currency: str = "EUR"


def steps() -> None:
    """Register the upcasters of Settled; the first is known by the name that the message had then."""

    @upcast("Payed", to=2)
    def in_cents(raw: Raw) -> Raw:
        raw["cents"] = raw.pop("amount") * 100
        return raw

    @upcast("Settled", to=3)
    def with_currency(raw: Raw) -> Raw:
        return {"currency": "DM", **raw}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (written("Settled@3", cents=5), Paid(cents=5)),
        (written("Payed", amount=5), Paid(cents=500, currency="DM")),
        (written("Payed@2", cents=5), Paid(cents=5, currency="DM")),
        (written("Paid", amount=5), Paid(cents=500, currency="DM")),
        (written("Paid@2", cents=5, currency="CHF"), Paid(cents=5, currency="CHF")),
        (written("Settled", amount=5), Paid(cents=500, currency="DM")),
        (written("Paid@3", cents=5), Paid(cents=5)),
    ],
)
def test_each_version_is_read_under_each_name(data: bytes, message: Paid) -> None:
    """The steps from the written version on are taken, and the result is as if written now."""
    steps()
    decoder = MessageDecoder([Paid])
    assert decoder.decode(data) == message
    assert decoder.decode(decoder.current(data)) == message
    assert wire_name(Paid) == "Settled@3"


def test_upcasters_may_be_defined_after_the_decoder() -> None:
    """A module with the upcasters can import the entities."""
    decoder = MessageDecoder([Paid])
    with pytest.raises(
        DecodeError, match=r"Payed was written by an older build, and no upcaster leads to version 2: @upcast"
    ):
        decoder.decode(written("Payed", amount=5))
    steps()
    assert decoder.decode(written("Payed", amount=5)).cents == 500


@pytest.mark.parametrize(
    ("data", "unknown"),
    [
        (written("Settled@4", cents=5), Unknown("Settled@4")),
        (written("Other"), Unknown("Other")),
        (written("Settled@3", cents="five"), None),
        (b"\xc1", None),
        (encode({"cents": 5}), None),
        (encode({"type": 7}), None),
    ],
)
def test_what_a_build_lacks_is_named(data: bytes, unknown: Unknown | None) -> None:
    """A newer version, or a name that no class has; not what is merely wrong."""
    with pytest.raises(DecodeError) as raised:
        MessageDecoder([Paid]).decode(data)
    assert raised.value.unknown == unknown


def refused(function: Callable[[Raw], Any], data: bytes) -> str:
    """Return why bytes are refused if a function is the upcaster to version 2."""

    class Noted(Event, version=2):
        text: str

    upcast("Noted", to=2)(function)
    with pytest.raises(DecodeError) as raised:
        MessageDecoder([Noted]).decode(data)
    assert evolution.running() == ""
    return str(raised.value)


def test_an_upcaster_that_fails_is_named() -> None:
    """As bytes that cannot be decoded are, with the function and the step."""

    def raises(_raw: Raw) -> Raw:
        raise KeyError("amount")

    def forgets(raw: Raw) -> Raw:
        raw.clear()
        return None  # type: ignore[return-value]

    def strays(_raw: Raw) -> Raw:
        return {"text": 7}

    def overflows(_raw: Raw) -> Raw:
        return {"text": 1 << 70}

    for function, words in (
        (raises, "raises cannot bring Noted to version 2: KeyError: 'amount'"),
        (forgets, "forgets returned NoneType, not the fields of version 2 by name"),
        (strays, "after its upcast: Expected `str`, got `int`"),
        (overflows, "Noted cannot be written as Noted@2 after its upcast"),
    ):
        evolution._steps.clear()
        assert words in refused(function, written("Noted"))


def same(raw: Raw) -> Raw:
    """Change nothing."""
    return raw


def test_two_upcasters_for_one_step() -> None:
    """One is refused; a cell of a notebook that is run again replaces its own."""
    upcast("Noted", to=2)(same)
    upcast("Noted", to=2)(same)

    def other(raw: Raw) -> Raw:
        return raw

    with pytest.raises(DefinitionError, match=r"other: .*\.same makes the same step; keep one of them\."):
        upcast("Noted", to=2)(other)

    class Noted(Event, version=2, was=("Scribbled",)):
        text: str

    upcast("Scribbled", to=2)(other)
    with pytest.raises(DecodeError, match=r"same and .*other both lead to version 2"):
        MessageDecoder([Noted]).decode(written("Noted", text=""))


def nothing() -> Raw:
    """Take no argument."""
    return {}


async def later(raw: Raw) -> Raw:
    """Take a while."""
    return raw


@pytest.mark.parametrize(
    ("define", "words"),
    [
        (lambda: upcast("Noted@2", to=3)(same), "write the name without a version"),
        (lambda: upcast("Noted", to=1)(same), "versions above 1 have upcasters"),
        (lambda: upcast("Noted", to=True)(same), "versions above 1 have upcasters"),
        (lambda: upcast("Noted", to=2)(nothing), "take one argument"),  # type: ignore[type-var]
        (lambda: upcast("Noted", to=2)(later), "write a plain def"),  # type: ignore[type-var]
        (lambda: message(version=0), "version=0 is not a version; use a number from 1"),
        (lambda: message(version="2"), "version='2' is not a version"),
        (lambda: message(version=True), "version=True is not a version"),
        (lambda: message(was="Old"), "was='Old' is not a tuple of names"),
        (lambda: message(was=("",)), "was='' is not a wire name"),
        (lambda: message(was=("Old", "Old")), "has a name twice"),
        (lambda: message(was=("Noted",)), "or its own"),
        (lambda: message(was=("Old@2",)), "ends with a version; write the name alone"),
        (lambda: message(name="Noted@2"), "ends with a version; write the name alone"),
        (lambda: message(name="n" * 200, version=2), "too long with its version"),
    ],
)
def test_a_mistake_in_a_version_has_its_own_sentence(define: Callable[[], object], words: str) -> None:
    """At the class statement or the decorator, with the remedy."""
    with pytest.raises(DefinitionError, match=words):
        define()


def message(**options: Any) -> type[Event]:
    """Define a message."""

    class Noted(Event, **options):
        text: str = ""

    return Noted


def test_two_classes_cannot_have_had_one_name() -> None:
    """Their records could not be told apart."""

    class Opened(Event, was=("Begun",)):
        pass

    class Begun(Event):
        pass

    with pytest.raises(DefinitionError, match=r"are or were both named 'Begun'"):
        MessageDecoder([Opened, Begun])


def test_an_entity_is_renamed_by_its_name() -> None:
    """Its topics have that name, so ``was`` would leave them behind."""
    with pytest.raises(DefinitionError, match=r"write class Purchase\(Entity, name='Order'\)"):

        class Purchase(Entity, was=("Order",)):
            @command
            def buy(self, cmd: Buy) -> None: ...


class Buy(Command, version=2):
    """Buy."""

    count: int


class Bought(Event, version=2):
    """Bought."""

    count: int


class Cart(Entity, version=2):
    """Counts."""

    count: int = 0

    @command
    def buy(self, cmd: Buy) -> Bought:
        """Buy."""
        return Bought(count=cmd.count)

    @event
    def bought(self, evt: Bought) -> Self:
        """Count."""
        return self.replace(count=self.count + evt.count)


def renamed_count(raw: Raw) -> Raw:
    """Return a message in which ``number`` is called ``count``."""
    return {"count": raw["number"]}


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ([2], None),
        ([], None),
        ([3], "Bought is version 2, and an upcaster leads to version 3; write class Bought"),
        ([2, 4], "write class Bought(…, version=4)"),
    ],
)
def test_a_system_checks_its_upcasters(versions: list[int], words: str | None) -> None:
    """As it starts: none leads beyond the version of its class."""
    for to in versions:
        upcast("Bought", to=to)(renamed_count)
    system = ActorSystem("shop")
    system.host(Cart, partitions=1)
    if words is None:
        system.check()
        return
    with pytest.raises(DefinitionError) as raised:
        system.check()
    assert words in str(raised.value)


def test_a_version_that_was_skipped() -> None:
    """Upcasters to earlier versions would lead nowhere."""

    class Taken(Event, version=4):
        pass

    upcast("Taken", to=2)(same)
    upcast("Taken", to=4)(same)
    with pytest.raises(DefinitionError, match=r"no upcaster leads to version 3, .* write @upcast\('Taken', to=3\)"):
        evolution.History([Taken]).check()


def test_states_and_events_of_an_earlier_version_are_restored() -> None:
    """What is kept of them is written as the current version from then on."""
    for name in ("Buy", "Bought", "Cart"):
        upcast(name, to=2)(renamed_count)
    cart = behaviour(Cart)
    assert cart.name == "cart"
    state, data = restore(cart, written("Cart", number=5))
    assert (state, data) == (Cart(count=5), encode(Cart(count=5)))
    event, state, data = fold(cart, state, written("Bought", number=2))
    assert (event, state, data) == (Bought(count=2), Cart(count=7), encode(Cart(count=7)))
    assert TestKit(Cart()).run(Buy(count=1)).state == Cart(count=1)


def test_a_field_that_an_upcaster_kept_by_mistake_is_refused() -> None:
    """It would be lost from the state, as any field that the code does not know."""
    upcast("Bought", to=2)(lambda raw: {"count": raw["number"], **raw})
    with pytest.raises(DecodeError, match="Bought has no field 'number'"):
        fold(behaviour(Cart), Cart(), written("Bought", number=2))


@given(st.text(min_size=1, max_size=20), st.integers(1, 999_999))
def test_a_wire_name_is_read_as_it_is_written(name: str, version: int) -> None:
    """Whatever the name, unless it ends as a version does."""
    if WireName.parse(name).version == 1:
        assert WireName.parse(str(WireName(name, version))) == WireName(name, version)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)), max_size=4), st.integers(1, 4))
def test_steps_are_taken_in_order_from_the_written_version(changes: list[dict[str, int]], begin: int) -> None:
    """Each step sees what the one before it made; none before the written version is taken."""
    evolution._steps.clear()
    versions = range(2, 2 + len(changes))

    def step(to: int) -> Callable[[Raw], Raw]:
        def taken(raw: Raw) -> Raw:
            return {**raw, **changes[to - 2], "path": [*raw["path"], to]}

        return taken

    class Log(Event, version=1 + len(changes)):
        path: list[int]
        a: int = 0
        b: int = 0
        c: int = 0

    for to in versions:
        upcast("Log", to=to)(step(to))
    begin = min(begin, 1 + len(changes))
    name = "Log" if begin == 1 else f"Log@{begin}"
    taken = [to for to in versions if to > begin]
    fields: dict[str, int] = {}
    for to in taken:
        fields |= changes[to - 2]
    found = MessageDecoder([Log]).decode(written(name, path=[]))
    assert found == msgspec.convert({"type": wire_name(Log), "path": taken, **fields}, Log)
