"""What a saga awaits: steps, all of several, the first of several; and what undoes a step.

A step is an object that the saga's driver looks at. It does nothing by itself: it is sent when it is awaited, in the
transaction of that turn. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from functools import cache
from hashlib import blake2b
from typing import Any, Final, Generic, NamedTuple, TypeVar, final

import msgspec

from repertory.actors.effect import Effect
from repertory.actors.handler import Handler
from repertory.actors.message import Message
from repertory.actors.saga.progress import RecordedCall, RecordedStep, StepKind
from repertory.actors.wire import encode

T_co = TypeVar("T_co", covariant=True)

#: Bytes of the digest of a step's message.
DIGEST_BYTES = 8


class NonDeterministic(Exception):
    """The code of a saga takes another step than is recorded. Its key waits: deploy the code that it was begun with.

    Reasons are a change of the code under a running saga, and a value that differs from run to run (a clock, a random
    number, the order of a set).
    """


class NotInBuild(NonDeterministic):
    """This build lacks what a saga of another build needs. Its key waits for an owner whose build has it."""


class SagaRefused(Exception):
    """The code of a saga breaks a rule of sagas; the message is one sentence with the remedy."""


@final
class Pivot:
    """The type of ``PIVOT``: a step that cannot be undone, and makes stand what was done before it."""

    def __repr__(self) -> str:
        return "PIVOT"


#: ``undo=PIVOT``: the step cannot be undone. Once it is applied, what was done before it stands.
PIVOT: Final = Pivot()


class Call(msgspec.Struct, frozen=True):
    """A message and its receiver, made by ``ctx.call``: data, so that a step's undo can be written down.

    It is encoded when it is: a replay makes the calls of all former steps again.
    """

    target: str
    key: str
    message: Message
    is_effect: bool = False

    def recorded(self) -> RecordedCall:
        """Return it as it is written down."""
        return RecordedCall(self.target, self.key, encode(self.message), self.is_effect)


class Plan(msgspec.Struct, frozen=True):
    """What a step would be, before it has a number. ``decode`` makes a value of the answer's bytes.

    ``output`` is the message or request to send, None for a sleep or a signal.
    """

    kind: StepKind
    target: str
    key: str
    handler: str
    about: str
    digest: bytes
    decode: Callable[[RecordedStep], Any]
    undo: Call | None = None
    is_pivot: bool = False
    delay_ms: int = 0
    receiver: Handler | Effect[Any, Any] | None = None
    output: Message | None = None

    def recorded(self, n: int, now_ms: int, *, sent: bool = True) -> RecordedStep:
        """Return the step as it is written down, opened as number ``n`` at ``now_ms`` (epoch)."""
        undo = None if self.undo is None else self.undo.recorded()
        return RecordedStep(
            n, self.kind, self.target, self.key, self.handler, self.about, self.digest, undo, self.is_pivot, sent,
            now_ms + self.delay_ms if self.delay_ms else 0, now_ms,
        )  # fmt: skip

    def differs(self, step: RecordedStep) -> str | None:
        """Return what was recorded and what there is now, if they are not the same; else None."""
        was = step.kind, step.target, step.key, step.about, step.digest
        now = self.kind, self.target, self.key, self.about, self.digest
        if was == now:
            return None
        recorded, mine = described(step), described(self)
        if recorded == mine:
            recorded, mine = f"{recorded} of {step.digest.hex()}", f"{mine} of {self.digest.hex()}"
        return f"step {step.n}: recorded {recorded}, now {mine}"


def described(step: RecordedStep | Plan) -> str:
    """Return a step for people: its kind, who has its message, and under which key."""
    name = f"{step.target}.{step.handler}" if step.handler else step.target
    about = f"about {step.about!r}" if step.about else ""
    return " ".join(filter(None, (step.kind, name, repr(step.key) if step.key else "", about)))


def digest_of(message: Message) -> bytes:
    """Return the digest of a message: of its name without a version, and the fields that have not their defaults.

    So a field with a default, added while sagas run, changes no digest; neither does one of a struct within.
    """
    return digest_of_value(_plain(message))


#: Most values are of these types, and as plain as can be.
_SCALARS = frozenset({str, int, bool, float, bytes, type(None)})


def _plain(value: Any) -> Any:
    """Return a value as plain data, structs without what is left to their defaults."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, msgspec.Struct):
        name, fields = _shape(type(value))
        given: dict[str, Any] = {}
        for each in fields:
            found, usual = getattr(value, each.name), each.default if each.make is None else each.make()
            if type(found) is not type(usual) or found != usual:  # See `_is_same`, which would take longer.
                given[each.written] = _plain(found)
        return [name, given]
    if isinstance(value, list | tuple):
        return [_plain(each) for each in _without_defaults(value)]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(each) for each in value), key=encode)
    if dataclasses.is_dataclass(value):
        return _plain_dataclass(value)
    return value


def _plain_dataclass(value: Any) -> dict[str, Any]:
    given = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return {field.name: _plain(found) for field, found in given if not _is_same(found, _usual(field))}


def _usual(field: dataclasses.Field[Any]) -> object:
    """Return the default of a dataclass's field, or dataclasses.MISSING."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _is_same(value: object, usual: object) -> bool:
    """Return whether a value is a default: what only equals it, as True does 1, is not."""
    return type(value) is type(usual) and value == usual


def _without_defaults(value: Any) -> Any:
    """Return a list or tuple; a named tuple without what is left to defaults at its end."""
    usual = getattr(value, "_field_defaults", None)
    if not usual:
        return value
    count = len(value)
    while count and (name := value._fields[count - 1]) in usual and _is_same(value[count - 1], usual[name]):
        count -= 1
    return value[:count]


class _Field(NamedTuple):
    """A field of a message: its name as it is written, its name, and its default or what makes one."""

    written: str
    name: str
    default: object
    make: Callable[[], object] | None


@cache
def _shape(kind: type[msgspec.Struct]) -> tuple[object, tuple[_Field, ...]]:
    """Return the name of a class in a digest, and its fields."""
    name = kind.wire.name if issubclass(kind, Message) else kind.__struct_config__.tag
    fields = (
        _Field(
            each.encode_name, each.name, each.default, each.default_factory if callable(each.default_factory) else None
        )
        for each in msgspec.structs.fields(kind)
    )
    return name, tuple(fields)


def digest_of_value(value: object) -> bytes:
    """Return the digest of plain data."""
    return blake2b(encode(value), digest_size=DIGEST_BYTES).digest()


class SagaStep(Generic[T_co]):
    """Something that a saga awaits; its result has the type ``T_co``."""

    __slots__ = ("plans",)

    def __init__(self, plans: tuple[Plan, ...]) -> None:
        self.plans = plans

    def __await__(self) -> Generator[SagaStep[Any], Any, T_co]:
        """Suspend the saga until its driver has the result."""
        result: T_co = yield self
        return result


class Open(SagaStep[T_co]):
    """A step that may lose a race: ``ctx.first`` takes it."""

    __slots__ = ()


class Single(Open[T_co]):
    """One step."""

    __slots__ = ()


class Gather(SagaStep[T_co]):
    """All of several steps; the result is the tuple of theirs."""

    __slots__ = ()


class First(SagaStep[T_co]):
    """The first of several steps; the result is that of the winner."""

    __slots__ = ()
