"""Projections: tables of a database that follow the events of entities. Needs the extra ``projections``.

One event's journey: ``feed`` reads it from the journal, if it counts, ``partition`` puts it into a batch, ``handlers``
decodes it and runs its ``@project`` method, which leaves statements in ``db``, and ``store`` writes the rows and the
progress in one transaction of the database. Enter ``partition`` first: it says what happens when a step fails.

``definition`` is what users write, ``statements`` its tables and upserts; ``projection`` is a class as a system
projects it; ``database`` wraps SQLAlchemy's engine; ``versions`` builds tables, and switches and drops them;
``projector`` drives all partitions of one projection, ``process`` does so in a supervised process; ``waiting`` and
``operate`` are for those who ask.
"""

from importlib.util import find_spec

if find_spec("sqlalchemy") is None:
    raise ImportError("projections need SQLAlchemy: pip install 'repertory[projections]'")

from repertory.bridge.system.projected import Park, ProjectionStopped, ProjectionTrouble, Retry
from repertory.projections.db import Db
from repertory.projections.definition import At, Projection, project
from repertory.projections.statements import RowStatement, delete, insert, table, upsert

__all__ = [
    "At",
    "Db",
    "Park",
    "Projection",
    "ProjectionStopped",
    "ProjectionTrouble",
    "Retry",
    "RowStatement",
    "delete",
    "insert",
    "project",
    "table",
    "upsert",
]
