"""The shop of the example for rough treatment: short sessions, small transactions, a budget for killed workers.

``KILLED_TABLES`` is the URL of a database to which it is projected.
"""

from __future__ import annotations

import os

from examples.shop import Order, Stock, Warehouse
from examples.shop.payments import lifespan
from examples.shop.projections import Items, Orders
from repertory import ActorSystem, Backoff, restart
from repertory.bridge.system.settings import Settings

system = ActorSystem(
    os.environ.get("KILLED_NAME", "rough-shop"),
    settings=Settings(
        batch_records_max=int(os.environ.get("KILLED_BATCH", "10")),
        snapshot_window_bytes_max=1,
        snapshot_window_records=50,
        session_timeout_s=float(os.environ.get("KILLED_SESSION_S", "6")),
        transaction_timeout_s=float(os.environ.get("KILLED_TRANSACTION_S", "10")),
        ping_timeout_s=float(os.environ.get("KILLED_PING_S", "15")),
    ),
    workers=restart(max_restarts=1_000, within_s=60, backoff=Backoff(first_s=0.02, max_s=1)),
    lifespan=lifespan,
)
for entity in (Order, Stock, Warehouse):
    system.host(entity, partitions=2)
if tables := os.environ.get("KILLED_TABLES"):
    system.project(Items, Stock, to=tables)
    system.project(Orders, Stock, to=tables)
