"""``Projection``, ``@project`` and ``At``: what users write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec
import sqlalchemy as sa

from repertory.actors.entity import Entity
from repertory.actors.message import DefinitionError
from repertory.bridge.system.projected import OnError
from repertory.projections.statements import OWN, RowStatement

if TYPE_CHECKING:
    from repertory.bridge.system.definition import SystemDefinition
    from repertory.projections.projection import BoundProjection

F = TypeVar("F", bound=Callable[..., None])

#: PostgreSQL cuts names after 63 characters; a version, an attribute and an index need room too.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_VERSION_MAX = 1_000_000
_MARK = "_repertory_projects"
#: What the runtime knows of a projection; no table can have such a name.
_TAKEN = frozenset({"name", "version", "tables", "metadata", "view_name", "methods", "projected"})
#: The attribute whose table has the projection's own name.
ROWS = "rows"


class At(msgspec.Struct, frozen=True, gc=False):
    """Where an event stands.

    ``entity`` is the name of its entity, ``key`` that entity's key; ``partition`` and ``offset`` are its place in the
    events topic, ``seq`` its number in the shard; ``time`` is the log's, in UTC; ``cause`` is that of its record.
    """

    entity: str
    key: str
    partition: int
    offset: int
    seq: int
    timestamp_ms: int
    cause: str

    @property
    def time(self) -> datetime:
        """When the log took the event, in UTC."""
        return datetime.fromtimestamp(self.timestamp_ms / 1_000, UTC)


def project(method: F) -> F:
    """Mark a method of a projection: it is called with each event of the type in its first annotation.

    ``def deposited(self, evt: Deposited, at: At, db: Db) -> None``, or with a union of events. It does no I/O but
    ``db``, and depends on nothing but its arguments: it may run again, after what it did was undone.
    """
    setattr(method, _MARK, True)
    return method


class Projection:
    """Tables that follow the events of entities. ``class Balances(Projection, version=2): …``

    Class attributes made by ``table`` are its tables; methods with ``@project`` write to them. Raise ``version`` when
    tables or handlers change: a version has tables of its own beside those of the others, and is built from the first
    event on. ``name``: of its tables; by default that of the class, ``account_balances`` for ``AccountBalances``.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    #: Its tables by their attributes, and what they are made of.
    tables: ClassVar[dict[str, sa.Table]] = {}
    metadata: ClassVar[sa.MetaData] = sa.MetaData()

    def __init_subclass__(cls, *, version: int = 1, name: str = "", **options: Any) -> None:
        """Name the tables. Raises DefinitionError."""
        super().__init_subclass__(**options)
        if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= _VERSION_MAX:
            raise DefinitionError(f"{cls.__name__}: version is 1 to {_VERSION_MAX:,}, not {version!r:.100}.")
        cls.name, cls.version = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower(), version
        if not _NAME.fullmatch(cls.name):
            raise DefinitionError(
                f"{cls.__name__}: its tables would be called {cls.name!r:.100}; give it a name= of at most 40 "
                "lower-case letters, digits and underscores, a letter first."
            )
        cls.metadata = sa.MetaData()
        made: dict[sa.Table, sa.Table] = {}
        found = {each: getattr(cls, each) for each in dir(cls) if not each.startswith("__")}
        cls.tables = {}
        for attribute, value in found.items():
            if isinstance(value, sa.Table) and OWN in value.info:
                if attribute in _TAKEN:
                    raise DefinitionError(f"{cls.__name__}.{attribute}: no table can be called so; rename it.")
                made[value] = cls.tables[attribute] = value.to_metadata(cls.metadata, name=cls._table_name(attribute))
                _name_by_version(made[value], cls.version)
                setattr(cls, attribute, made[value])
        for attribute, value in found.items():
            if isinstance(value, RowStatement) and value.table in made:
                setattr(cls, attribute, value.on(made[value.table]))
            if isinstance(value, sa.Insert | sa.Update | sa.Delete) and value.table in made:
                raise DefinitionError(
                    f"{cls.__name__}.{attribute} is built before its table has a name: use insert, upsert or delete of "
                    "repertory.projections, or build it in a method from self."
                )

    @classmethod
    def _table_name(cls, attribute: str) -> str:
        return f"{cls.view_name(attribute)}_{cls.version}"

    @classmethod
    def view_name(cls, attribute: str = ROWS) -> str:
        """Return the name under which readers find a table, whatever version serves."""
        return cls.name if attribute == ROWS else f"{cls.name}_{attribute}"

    @classmethod
    def methods(cls) -> list[Callable[..., None]]:
        """Return its ``@project`` methods."""
        values = [getattr(cls, each) for each in dir(cls) if not each.startswith("__")]
        return [each for each in values if getattr(each, _MARK, False)]

    @classmethod
    def projected(
        cls, system: SystemDefinition, entities: Sequence[type[Entity]], to: str | None, on_error: OnError
    ) -> BoundProjection:
        """See ``Projectable.projected``; ``system.project`` calls it."""
        from repertory.projections.projection import BoundProjection  # noqa: PLC0415  it imports this module

        return BoundProjection(cls, system.name, [system.definition(each) for each in entities], to, on_error)


def _name_by_version(table: sa.Table, version: int) -> None:
    """Give what a database knows by name in all its tables a name of its own in each version: indexes, and unique keys.

    SQLAlchemy makes those names that are not given out of the name of the table, which has the version in it.
    """
    keys = [each for each in table.constraints if isinstance(each, sa.UniqueConstraint | sa.PrimaryKeyConstraint)]
    for each in (*table.indexes, *keys):
        if isinstance(each.name, str) and table.name not in each.name:
            each.name = f"{each.name}_{version}"
