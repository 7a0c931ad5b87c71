"""``BoundProjection``: a projection class as a system projects it: its entities, its database, its policy."""

from __future__ import annotations

import copy
import hashlib
import shutil
import weakref
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import sqlalchemy as sa

from repertory.actors.message import DefinitionError
from repertory.bridge import topics
from repertory.bridge.log.port import Backend
from repertory.bridge.system.projected import OnError, Park, ProjectionStatus, Retry
from repertory.projections.database import Database, checked_url
from repertory.projections.definition import Projection
from repertory.projections.handlers import Handlers, methods_of
from repertory.projections.progress import ProjectedPlace
from repertory.projections.statements import shape_of
from repertory.projections.store import SqlProgress

if TYPE_CHECKING:
    from repertory.bridge.system.definition import SystemDefinition
    from repertory.bridge.system.hosting import EntityDefinition
    from repertory.projections.projector import InlineProjector
    from repertory.projections.waiting import SqlWaiting

#: Where the databases of logs in memory are. They end with their log.
_in_memory: weakref.WeakKeyDictionary[Backend, Path] = weakref.WeakKeyDictionary()


class BoundProjection:
    """Implements ``Projected``. Immutable; opens nothing by itself."""

    work = "repertory.projections.process:projector_host"

    def __init__(
        self,
        kind: type[Projection],
        system: str,
        entities: Sequence[EntityDefinition],
        to: str | None,
        on_error: OnError,
    ) -> None:
        """Raises DefinitionError, ValueError."""
        if not entities:
            raise ValueError(
                f"{kind.__name__} projects no entity; name at least one: system.project({kind.__name__}, …)"
            )
        for each in entities:
            if not each.behaviour.journaled:
                raise DefinitionError(
                    f"{kind.__name__} cannot project {each.behaviour.entity.__name__}, which has no events: its states "
                    "are read with client.view."
                )
        if not isinstance(on_error, Retry | Park):
            raise ValueError(f"on_error is Retry(…) or Park(…), not {on_error!r:.100}")  # noqa: TRY004
        self.kind, self.system, self.on_error = kind, system, on_error
        self.name, self.version = kind.name, kind.version
        self.hosted = {each.behaviour.name: each for each in entities}
        self.entities = [each.behaviour.entity for each in entities]
        behaviours = [each.behaviour for each in entities]
        methods, instance = methods_of(kind, behaviours), _made(kind)
        self.handlers = {each.name: Handlers(instance, each, methods) for each in behaviours}
        try:
            self.tables = list(kind.metadata.sorted_tables)
        except sa.exc.NoReferencedTableError as error:
            names = ", ".join(kind.metadata.tables)
            raise DefinitionError(
                f"{kind.__name__} has a foreign key to a table that is none of its own ({names}): name one of these "
                "and its column in a text, as in sa.ForeignKey('orders_1.id')."
            ) from error
        self.digest = _digest(kind, self.handlers)
        #: The database that was named; None: the file beside the log.
        self.to = None if to is None else checked_url(to)

    def __repr__(self) -> str:
        return f"{self.name} (version {self.version})"

    @property
    def group(self) -> str:
        """The group whose members share its partitions."""
        return f"{self.system}.projection.{self.name.replace('_', '-')}.{self.version}"

    def places(self) -> list[ProjectedPlace]:
        """Return all partitions that it reads."""
        return [
            ProjectedPlace(name, topics.events_topic(self.system, name), partition)
            for name, hosted in self.hosted.items()
            for partition in range(hosted.partitions)
        ]

    def database(self, backend: Backend) -> Database:
        """Return its database. Unless one was named, that is a file: of a log in memory, one that ends with it."""
        if self.to is not None:
            return Database(self.to)
        scheme, _, path = backend.url.partition(":")
        folder = Path(path).parent if scheme == "sqlite" else Path()
        if scheme == "memory":
            folder = _folder_of(backend)
        return Database(sa.URL.create("sqlite", database=str(folder / f"{self.system}.projections.db")))

    def progress_of(self, database: Database, place: ProjectedPlace) -> SqlProgress:
        """Return what reads and changes the progress of one partition."""
        return SqlProgress(database, self.name, self.version, place, self.handlers[place.entity], self.tables)

    # --- see ``Projected`` ------------------------------------------------------------------------------------

    def on(self, system: SystemDefinition) -> BoundProjection:
        """See ``Projected.on``."""
        made = copy.copy(self)
        made.system = system.name
        made.hosted = {name: system.definition(each.behaviour.entity) for name, each in self.hosted.items()}
        return made

    def follow(self, system: SystemDefinition, backend: Backend) -> InlineProjector:
        """See ``Projected.follow``."""
        from repertory.projections.projector import InlineProjector  # noqa: PLC0415  it imports this module

        return InlineProjector(self, system, backend)

    def url(self, backend: Backend) -> str:
        """See ``Projected.url``."""
        return self.database(backend).url.render_as_string(hide_password=False)

    def progress(self, backend: Backend) -> SqlWaiting:
        """See ``Projected.progress``."""
        from repertory.projections.waiting import SqlWaiting  # noqa: PLC0415  as above

        return SqlWaiting(self, self.database(backend))

    def status(self, backend: Backend, ends: dict[tuple[str, int], int]) -> ProjectionStatus:
        """See ``Projected.status``."""
        from repertory.projections.waiting import status_of  # noqa: PLC0415  as above

        with closing(self.database(backend)) as database:
            return status_of(self, database, ends)


def _made(kind: type[Projection]) -> Projection:
    try:
        return kind()
    except TypeError as error:
        raise DefinitionError(f"{kind.__name__} is made without arguments: {error}; drop its __init__.") from error


def _folder_of(backend: Backend) -> Path:
    """Return the folder of a log in memory; it is removed with that."""
    if backend not in _in_memory:
        _in_memory[backend] = folder = Path(mkdtemp(prefix="repertory-"))
        weakref.finalize(backend, shutil.rmtree, folder, ignore_errors=True)
    return _in_memory[backend]


def _digest(kind: type[Projection], handlers: dict[str, Handlers]) -> str:
    """Return a digest of what a version is made of: its columns, and the events that it handles."""
    lines = [*shape_of(kind.tables), *(f"{name}: {', '.join(handlers[name].names)}" for name in sorted(handlers))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
