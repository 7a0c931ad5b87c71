"""The field types of a message or a state: whether they can be encoded, and whether they are mutable."""

from __future__ import annotations

from operator import attrgetter

import msgspec
from msgspec import inspect

_less = attrgetter("__lt__")

_SCALARS = (
    inspect.BoolType | inspect.BytesType | inspect.DateTimeType | inspect.DateType | inspect.DecimalType
    | inspect.EnumType | inspect.FloatType | inspect.IntType | inspect.LiteralType | inspect.NoneType
    | inspect.StrType | inspect.TimeType | inspect.TimeDeltaType | inspect.UUIDType
)  # fmt: skip
_RECORDS = inspect.StructType | inspect.DataclassType | inspect.TypedDictType | inspect.NamedTupleType
_SEQUENCES = (
    inspect.CollectionType | inspect.ListType | inspect.SetType | inspect.FrozenSetType | inspect.VarTupleType
)  # fmt: skip


def flaw(message: type[msgspec.Struct]) -> str | None:
    """Name the first field that could never be written, with the reason and the remedy; None if there is none.

    Raises NameError or AttributeError if an annotation uses a name that does not exist (yet).
    """
    for field in msgspec.structs.fields(message):
        where = f"{message.__name__}.{field.name}"
        try:
            node = inspect.type_info(field.type)
        except (TypeError, ValueError) as error:
            return f"{where} has a type that cannot be written: {error}; choose another"
        if reason := _flaw(node, frozenset()):
            return f"{where} {reason}"
    return None


def _flaw(node: inspect.Type, seen: frozenset[type]) -> str | None:
    """Return why values of this type cannot be written. An ``Any`` field is only checked when it is written."""
    match node:
        case inspect.CustomType(cls=cls):
            return f"is of type {cls.__name__}, which cannot be written; use a frozen msgspec.Struct"
        case inspect.DictType(key_type=key, value_type=value):
            return _flaw_of_keys(key) or _flaw(value, seen)
        case inspect.UnionType(types=parts) | inspect.TupleType(item_types=parts):
            return next(filter(None, (_flaw(part, seen) for part in parts)), None)
        case inspect.Metadata(type=inner):
            return _flaw(inner, seen)
    if isinstance(node, inspect.SetType | inspect.FrozenSetType) and (what := _unordered(node.item_type)):
        return f"is a set of {what}, which have no order, and equal sets must give equal bytes; use a tuple"
    if isinstance(node, _SEQUENCES):
        return _flaw(node.item_type, seen)
    if isinstance(node, _RECORDS) and node.cls not in seen:
        reasons = ((field.name, _flaw(field.type, seen | {node.cls})) for field in node.fields)
        return next((f"holds {node.cls.__name__}, whose {name} {reason}" for name, reason in reasons if reason), None)
    return None


def _flaw_of_keys(node: inspect.Type) -> str | None:
    """Return why a map with such keys cannot be written. Equal values give equal bytes, so keys are sorted as text."""
    match node:
        case inspect.StrType() | inspect.AnyType():
            return None
        case inspect.LiteralType(values=values) if all(isinstance(value, str) for value in values):
            return None
        case inspect.EnumType(cls=cls) if issubclass(cls, str):
            return None
        case inspect.Metadata(type=inner):
            return _flaw_of_keys(inner)
    kind = node.cls.__name__ if isinstance(node, inspect.EnumType) else type(node).__name__.removesuffix("Type").lower()
    return f"is a map with keys of type {kind}, and only str can be a key; use dict[str, …] or a list of pairs"


def _unordered(node: inspect.Type) -> str | None:
    """Return what the values of this type are called if they cannot be sorted: a set of two could not be written."""
    match node:
        case inspect.Metadata(type=inner):
            return _unordered(inner)
        case inspect.StructType(cls=cls) if not cls.__struct_config__.order:
            return f"{cls.__name__} (without order=True)"
        case inspect.DataclassType(cls=cls) | inspect.EnumType(cls=cls) if _less(cls) is _less(object):
            return f"{cls.__name__} (without __lt__)"
        case inspect.UnionType(types=parts):
            numbers = inspect.IntType | inspect.FloatType | inspect.BoolType | inspect.DecimalType
            if len({type(part) for part in parts}) > 1 and not all(isinstance(part, numbers) for part in parts):
                return "values of several types"
            return next(filter(None, map(_unordered, parts)), None)
        case inspect.TupleType(item_types=parts):
            return next(filter(None, map(_unordered, parts)), None)
    return None


def is_mutable(message: type[msgspec.Struct]) -> bool:
    """Return whether a value of this class can be changed in place."""
    return _is_mutable(inspect.type_info(message), frozenset())


def _is_mutable(node: inspect.Type, seen: frozenset[type]) -> bool:
    """Return whether a value of this type can be changed in place. Types not known as immutable count as mutable."""
    match node:
        case inspect.StructType(cls=cls, fields=fields):
            if cls in seen:
                return False
            return not cls.__struct_config__.frozen or any(_is_mutable(f.type, seen | {cls}) for f in fields)
        case inspect.UnionType(types=parts) | inspect.TupleType(item_types=parts):
            return any(_is_mutable(part, seen) for part in parts)
        case inspect.VarTupleType(item_type=item) | inspect.FrozenSetType(item_type=item):
            return _is_mutable(item, seen)
    return not isinstance(node, _SCALARS)
