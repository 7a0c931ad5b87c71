"""The HTTP front: a system's commands and queries as an ASGI application. Needs the extra ``http``.

One request's journey: ``app`` takes it, ``routing`` finds the operation and the key in its path, ``principals`` says
who sent it, ``ids`` reads its idempotency key and ``bodies`` its message, ``asking`` is what answers it, and
``problems`` turns what went wrong into an answer. ``operations`` is what is exposed; ``openapi`` and ``page`` describe
it to programs and to people. ``server`` runs it by itself for ``repertory serve``, and ``driven`` a system on
``memory:`` beside it. Enter ``endpoint`` first: it makes these steps.
"""

from repertory.gateway.app import Gateway
from repertory.gateway.endpoint import GatewayLimits
from repertory.gateway.principals import bearer_token

__all__ = ["Gateway", "GatewayLimits", "bearer_token"]
