"""The projected application as a node runs it. The environment says how: its name, its database, its handlers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from repertory.projections import At, Db, project
from tests.apps.projected import Added, Totals, made

NAME, TO, DELIVERY = "PROJECTING_NAME", "PROJECTING_TO", "PROJECTING_DELIVERY"
#: A file: the handler that takes it away stops its own process within the transaction, as SIGSTOP from outside does.
STOPS = "PROJECTING_STOPS"
#: An amount: the handler that gets it ends its process.
EXITS = "PROJECTING_EXITS"


class Stopping(Totals, name="totals"):
    """Totals, whose projector may be stopped in the middle of a transaction, or end there."""

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        super().added(evt, at, db)
        if str(evt.amount) == os.environ.get(EXITS):
            os._exit(9)
        stops = os.environ.get(STOPS)
        if stops and Path(stops).exists():
            Path(stops).rename(f"{stops}.{os.getpid()}")
            db.flush()
            os.kill(os.getpid(), signal.SIGSTOP)


system = made(
    os.environ.get(NAME, "projecting"), os.environ.get(DELIVERY, "exactly-once"), to=os.environ.get(TO), of=Stopping
)
