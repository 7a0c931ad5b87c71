"""Evolution: what was written under an earlier version or name of a class is brought up to the current one.

::

    class Withdrawn(Event, version=2, was=("Payed",)):        # written as Withdrawn@2; was Payed, and Withdrawn
        amount: int
        currency: str

    @upcast("Withdrawn", to=2)
    def with_currency(raw: Raw) -> Raw:                         # the fields of version 1; returns those of version 2
        return {**raw, "currency": "EUR"}

What is in the log stays as it is. An older message is upcast wherever its bytes enter: commands, the journal,
snapshots, stashed commands, dead letters. A message within another belongs to that one, whose upcaster sees both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from repertory.actors.message import TYPE_FIELD, VERSION_MAX, DefinitionError, Message, WireName

#: The fields of a message as they are in its bytes, by their names there, without its wire name.
Raw = dict[str, Any]

Upcast = Callable[[Raw], Raw]
U = TypeVar("U", bound=Upcast)

#: The step to each version of each name. Functions are looked up as they are needed, so they may be defined after the
#: entities that need them.
_steps: dict[tuple[str, int], Upcast] = {}

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class UpcastError(ValueError):
    """Bytes of an older version cannot be brought up to the current one; the error's text says why."""


class _Running:
    """The upcaster that runs now, for the report about one that never returns."""

    what = ""


def upcast(name: str, *, to: int) -> Callable[[U], U]:
    """Register a function that takes the fields of version ``to`` - 1 of a message and returns those of version ``to``.

    ``name`` is the wire name without a version; one that the class had before will do (``was=``). The function must be
    pure: its result is the same each time, and stands for what was written. It may change the dict that it gets.

    Raises:
        DefinitionError: ``to`` is no version above 1, another function is registered for this step, or the function
            does not take one argument.
    """
    if not isinstance(name, str) or WireName.parse(name).version != 1:
        raise DefinitionError(
            f"@upcast({name!r:.100}): write the name without a version, as in upcast('Withdrawn', to=2)."
        )
    if type(to) is not int or not 2 <= to <= VERSION_MAX:
        raise DefinitionError(f"@upcast({name!r}, to={to!r:.100}): versions above 1 have upcasters; give one of them.")

    def register(function: U) -> U:
        where = f"@upcast({name!r}, to={to}) {_named(function)}"
        try:
            inspect.signature(function).bind({})
        except (TypeError, ValueError):
            raise DefinitionError(
                f"{where}: an upcaster is called with one dict of fields; take one argument."
            ) from None
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise DefinitionError(f"{where}: an upcaster returns the fields at once; write a plain def.")
        other = _steps.setdefault((name, to), function)
        if _named(other) != _named(function):
            raise DefinitionError(f"{where}: {_named(other)} makes the same step; keep one of them.")
        _steps[name, to] = function  # A cell of a notebook that is run again defines it again.
        return function

    return register


def running() -> str:
    """Return the upcaster that runs now, or ""; may be called on any thread."""
    return _Running.what


def _named(function: Upcast) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


class History:
    """The earlier versions and names of some message types."""

    def __init__(self, types: Iterable[type[Message]]) -> None:
        """Raises DefinitionError if two types had one name."""
        self._types: dict[str, type[Message]] = {}
        for each in types:
            for name in (each.wire.name, *each.wire.was):
                other = self._types.setdefault(name, each)
                if other is not each:
                    raise DefinitionError(
                        f"{each.__qualname__} and {other.__qualname__} are or were both named {name!r}, so their "
                        "records cannot be told apart; correct was= of one of them."
                    )

    def upcast(self, data: bytes) -> bytes | None:
        """Return a message as it would be written now; None if it is not one of an earlier version or name.

        Raises UpcastError if an upcaster is missing or fails.
        """
        try:
            raw = msgspec.msgpack.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if not isinstance(raw, dict) or not isinstance(written := raw.pop(TYPE_FIELD, None), str):
            return None
        wire = WireName.parse(written)
        found = self._types.get(wire.name)
        if found is None or written == str(found.wire) or wire.version > found.wire.version:
            return None
        for to in range(wire.version + 1, found.wire.version + 1):
            raw = _step(found.wire, written, to, raw)
        try:
            return _encode({TYPE_FIELD: str(found.wire), **raw})
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UpcastError(f"{written} cannot be written as {found.wire} after its upcast: {error}") from error

    def check(self) -> None:
        """Raise DefinitionError if upcasters of these types leave a version out, or lead beyond the current one."""
        for each in {*self._types.values()}:
            wire, names = each.wire, (each.wire.name, *each.wire.was)
            steps = {to for name, to in _steps if name in names}
            if beyond := [to for to in steps if to > wire.version]:
                raise DefinitionError(
                    f"{each.__qualname__} is version {wire.version}, and an upcaster leads to version {min(beyond)}; "
                    f"write class {each.__name__}(…, version={max(beyond)})."
                )
            if steps and (skipped := {*range(min(steps), wire.version + 1)} - steps):
                raise DefinitionError(
                    f"{each.__qualname__}: no upcaster leads to version {min(skipped)}, so those to earlier versions "
                    f"lead nowhere; write @upcast({wire.name!r}, to={min(skipped)})."
                )


def _step(wire: WireName, written: str, to: int, raw: Raw) -> Raw:
    """Return the fields of version ``to``, from those of the version before."""
    found = [_steps[name, to] for name in (wire.name, *wire.was) if (name, to) in _steps]
    if len({*map(_named, found)}) != 1:
        what = "no upcaster leads" if not found else f"{' and '.join(map(_named, found))} both lead"
        raise UpcastError(
            f"{written} was written by an older build, and {what} to version {to}: @upcast({wire.name!r}, to={to})"
        )
    _Running.what = f"{_named(found[0])} ({written} to version {to})"
    try:
        after = found[0](raw)
    except MemoryError:
        raise
    except Exception as error:
        raise UpcastError(
            f"{_named(found[0])} cannot bring {written} to version {to}: {type(error).__name__}: {error}"
        ) from error
    finally:
        _Running.what = ""
    if not isinstance(after, dict) or not all(isinstance(name, str) for name in after):
        raise UpcastError(f"{_named(found[0])} returned {type(after).__name__}, not the fields of version {to} by name")
    after.pop(TYPE_FIELD, None)
    return after
