"""The application: both vendors' paths, keys and rate limits over one store, `/_control` beside them."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from flows.sandbox.apis import SENDGRID_KEY, STRIPE_KEY, control, sendgrid, stripe
from flows.sandbox.apis.faults import Fault, FaultSwitch
from flows.sandbox.apis.limits import RateLimit
from flows.sandbox.apis.store import STRIPE_KINDS, Store

Vendor = Literal["stripe", "sendgrid"]
Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def _bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def application(store: Store, stripe_key: str = STRIPE_KEY, sendgrid_key: str = SENDGRID_KEY) -> ASGIApp:
    """What an ASGI server runs.

    Order of judgement, as the services have it: key (401), rate limit (429), parameters (400), answer. The
    store is asked in the event loop's own thread: a page takes a millisecond.
    """
    faults: list[Fault] = []
    requests: Counter[str] = Counter()
    # Far above what one reader asks: limits are met when a test or a person sets them.
    limits: dict[str, RateLimit] = {"stripe": RateLimit(5000, 1), "sendgrid": RateLimit(60000, 60)}

    def guarded(vendor: Vendor, answer: Callable[[Store, Request], Response]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            path = request.url.path
            requests[path] += 1
            key = _bearer(request)
            expected = stripe_key if vendor == "stripe" else sendgrid_key
            if key is None or not secrets.compare_digest(key.encode(), expected.encode()):
                return stripe.unauthorized(key) if vendor == "stripe" else sendgrid.unauthorized()
            passes, headers = limits[vendor].take(path)
            if not passes:
                refuse = stripe.rate_limited if vendor == "stripe" else sendgrid.rate_limited
                return refuse(headers)
            response = answer(store, request)
            response.headers.update(headers)
            return response

        return endpoint

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def unknown(request: Request, _: Exception) -> Response:
        message = f"Unrecognized request URL ({request.method}: {request.url.path})."
        return stripe.error(404, {"message": message, "type": "invalid_request_error"})

    list_of = {kind: guarded("stripe", stripe.list_objects(kind)) for kind in STRIPE_KINDS}
    one_of = {kind: guarded("stripe", stripe.get_object(kind)) for kind in STRIPE_KINDS}
    routes = [
        Route("/healthz", health),
        *(Route(f"/v1/{kind}", endpoint) for kind, endpoint in list_of.items()),
        *(Route(f"/v1/{kind}/{{id}}", endpoint) for kind, endpoint in one_of.items()),
        Route("/v3/messages", guarded("sendgrid", sendgrid.list_messages)),
        Route("/v3/stats", guarded("sendgrid", sendgrid.list_stats)),
        *(
            Route(f"/v3/suppression/{kind}", guarded("sendgrid", sendgrid.list_suppressions(kind)))
            for kind in sendgrid.SUPPRESSIONS
        ),
        *control.routes(store, faults, limits, requests),
    ]
    handlers: dict[Any, Any] = {404: unknown, ValueError: control.refused, KeyError: control.refused}
    return FaultSwitch(Starlette(routes=routes, exception_handlers=handlers), store, faults)
