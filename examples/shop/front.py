"""The shop's front: orders are placed as ``repertory serve`` takes them, and pages read tables of a projection.

``GET /items`` says what is for sale, ``GET /orders/{number}`` where an order is. Nodes do the work, with projectors:
``repertory run examples.shop:system --log sqlite:shop.db --projectors 1``, and beside it
``REPERTORY_LOG=sqlite:shop.db uvicorn --factory examples.shop.front:app``.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from examples.shop import system
from examples.shop.projections import Orders
from repertory.gateway import Gateway


def app() -> Starlette:
    """Return the ASGI application for the log that REPERTORY_LOG names."""
    return front(Gateway(system, log=os.environ["REPERTORY_LOG"]), database(os.environ["REPERTORY_LOG"]))


def database(log: str) -> sa.Engine:
    """Return the database of the projections of a log."""
    with closing(system.client(log)) as client:
        return sa.create_engine(client.database(Orders))


def front(gateway: Gateway, tables: sa.Engine) -> Starlette:
    """Return the application: two pages, and what the gateway takes."""
    items = sa.text("SELECT item, price, shelf FROM items ORDER BY item")
    order = sa.text("SELECT item, count, cents, stage FROM orders WHERE number = :number")

    def list_items(_request: Request) -> JSONResponse:
        with tables.connect() as sql:
            return JSONResponse([dict(row) for row in sql.execute(items).mappings()])

    def show_order(request: Request) -> JSONResponse:
        with tables.connect() as sql:
            row = sql.execute(order, request.path_params).mappings().first()
        return JSONResponse({"title": "no such order"}, 404) if row is None else JSONResponse(dict(row))

    def have_no_tables(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"title": "the tables cannot be read; do projectors run?"}, 503)

    @asynccontextmanager
    async def lifespan(application: Starlette) -> AsyncIterator[None]:
        async with gateway.lifespan(application):
            yield
        tables.dispose()

    pages = [Route("/items", list_items), Route("/orders/{number}", show_order), Mount("/", gateway.app)]
    return Starlette(routes=pages, lifespan=lifespan, exception_handlers={sa.exc.DBAPIError: have_no_tables})
