"""Payments: the effects that ask the payment provider over HTTP (``examples.shop.provider``, or one like it).

The payment of an order has one URL, so an attempt that is repeated charges once. Nobody knows whether an attempt
without an answer has charged, or still will; so a refund also closes the payment to all charges that come later.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx

from repertory import Backoff, EffectContext, Event, Rejection, Request, effect

#: For a day and more, longer than any order may be open: then somebody has to look.
ATTEMPTS, BACKOFF = 5_000, Backoff(first_s=0.2, max_s=20)


class Charge(Request):
    """Take the money for an order."""

    order: str
    customer: str
    cents: int


class Refund(Request):
    """Give back the money of an order, if it was taken."""

    order: str


class Charged(Event):
    """The money was taken."""


class Declined(Rejection):
    """The money was not taken, and never will be."""

    reason: str


class Refunded(Event):
    """The money was given back, or never taken; it cannot be taken any more."""


@effect(timeout_s=2, attempts=ATTEMPTS, backoff=BACKOFF)
async def charge(do: Charge, fx: EffectContext) -> Charged | Declined:
    """Charge once, however often it is tried."""
    paid = {"customer": do.customer, "cents": do.cents}
    answer = await fx.get(httpx.AsyncClient).put(_payment(do.order), json=paid)
    if answer.status_code == httpx.codes.PAYMENT_REQUIRED:
        return Declined(reason=answer.json()["reason"])
    answer.raise_for_status()
    return Charged()


@effect(timeout_s=2, attempts=ATTEMPTS, backoff=BACKOFF)
async def refund(do: Refund, fx: EffectContext) -> Refunded:
    """Refund once, however often it is tried."""
    answer = await fx.get(httpx.AsyncClient).delete(_payment(do.order))
    answer.raise_for_status()
    return Refunded()


def _payment(order: str) -> str:
    return f"/payments/{quote(order, safe='')}"


@asynccontextmanager
async def lifespan() -> AsyncIterator[httpx.AsyncClient]:
    """Once in each worker: the connections to the provider."""
    async with httpx.AsyncClient(base_url=os.environ.get("SHOP_PROVIDER", "http://127.0.0.1:8001")) as client:
        yield client
