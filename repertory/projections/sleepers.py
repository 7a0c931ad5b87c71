"""Ends the transactions of projectors that are stopped within them, where PostgreSQL does not.

``idle_in_transaction_session_timeout`` runs from the end of a statement until any message comes. psycopg sends a Flush
behind the Sync of each executemany (3.2 and 3.3 do), and from then on the server waits for ever (15.18 does). A process
that is stopped while it sends a statement leaves a session that is not idle at all. So who did not get a lock in time
ends such sessions itself.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from repertory.projections import schema

#: Those of this user that have written a progress, and have sent nothing for so long.
_END: Final = sa.text(
    """
    SELECT pg_terminate_backend(session.pid)
    FROM pg_stat_activity AS session
    WHERE session.datname = current_database() AND session.usename = current_user
      AND session.pid <> pg_backend_pid() AND session.state <> 'idle' AND session.wait_event = 'ClientRead'
      AND clock_timestamp() - session.state_change > make_interval(secs => :idle_s)
      AND EXISTS (
        SELECT FROM pg_locks AS held
        WHERE held.pid = session.pid AND held.granted AND held.mode = 'RowExclusiveLock'
          AND held.relation = to_regclass(:progress)
      )
    """
)


def end_sleepers(connection: sa.Connection, idle_s: float) -> None:
    """End the sessions of projectors that are within a transaction, and have sent nothing for ``idle_s`` seconds."""
    connection.execute(_END, {"idle_s": idle_s, "progress": schema.progress.name})
