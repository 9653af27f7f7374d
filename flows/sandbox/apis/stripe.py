"""Stripe's seven lists as its API answers them: cursors, ranges of `created`, its own words for errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flows.sandbox.apis.store import STRIPE_KINDS, Store, StripeKind

_COMMON = frozenset({"limit", "starting_after", "ending_before", "expand[]", "expand[0]"})
_CREATED = frozenset({"created", "created[gt]", "created[gte]", "created[lt]", "created[lte]"})
_FILTERS: Mapping[str, frozenset[str]] = {
    "charges": frozenset({"customer", "payment_intent", "transfer_group"}),
    "refunds": frozenset({"charge", "payment_intent"}),
    "customers": frozenset({"email", "test_clock"}),
    "balance_transactions": frozenset({"currency", "payout", "source", "type"}),
    "disputes": frozenset({"charge", "payment_intent"}),
    "payouts": frozenset({"arrival_date", "destination", "status"}),
    "events": frozenset({"type", "delivery_success"}),
}
_SINGULAR = {kind: kind.removesuffix("s") for kind in STRIPE_KINDS}


class BadRequest(Exception):
    """A 400 in Stripe's words."""

    def __init__(self, message: str, param: str, code: str | None = None) -> None:
        super().__init__(message)
        self.body: dict[str, object] = {"message": message, "param": param, "type": "invalid_request_error"}
        if code:
            page = code.replace("_", "-")
            self.body |= {"code": code, "doc_url": f"https://stripe.com/docs/error-codes/{page}"}


def error(status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Response:
    """An answer in Stripe's error shape."""
    return JSONResponse({"error": dict(body)}, status_code=status, headers=dict(headers or {}))


def unauthorized(key: str | None) -> Response:
    """What Stripe says to no key and to a wrong one (of which it shows the end only)."""
    message = (
        "You did not provide an API key. You need to provide your API key in the Authorization header, "
        "using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
        if not key
        else f"Invalid API Key provided: {'*' * max(0, len(key) - 4)}{key[-4:]}"
    )
    headers = {"WWW-Authenticate": 'Basic realm="Stripe"'}
    return error(401, {"message": message, "type": "invalid_request_error"}, headers)


def rate_limited(headers: Mapping[str, str]) -> Response:
    """What Stripe says to too many requests."""
    body = {
        "code": "rate_limit",
        "message": "Request rate limit exceeded. You can learn more about rate limits here "
        "https://stripe.com/docs/rate-limits.",
        "type": "invalid_request_error",
    }
    return error(429, body, {**headers, "Stripe-Rate-Limited-Reason": "global-rate"})


def _integer(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadRequest(f"Invalid integer: {text}", name, "parameter_invalid_integer") from None


def _limit(query: Mapping[str, str]) -> int:
    limit = _integer("limit", query.get("limit", "10"))
    if not 1 <= limit <= 100:
        word = "greater than or equal to 1" if limit < 1 else "less than or equal to 100"
        raise BadRequest(f"This value must be {word}.", "limit", "parameter_invalid_integer")
    return limit


def _range(query: Mapping[str, str]) -> tuple[int | None, int | None]:
    """[since, until) of the `created` parameters."""
    lower: list[int] = []
    upper: list[int] = []
    for name, bounds, step in (
        ("created[gte]", lower, 0),
        ("created[gt]", lower, 1),
        ("created[lt]", upper, 0),
        ("created[lte]", upper, 1),
    ):
        if name in query:
            bounds.append(_integer(name, query[name]) + step)
    if "created" in query:
        moment = _integer("created", query["created"])
        lower.append(moment)
        upper.append(moment + 1)
    return max(lower, default=None), min(upper, default=None)


def _place(store: Store, kind: StripeKind, name: str, identity: str) -> tuple[int, int]:
    place = store.place(kind, identity)
    if place is None:
        raise BadRequest(f"No such {_SINGULAR[kind]}: '{identity}'", name, "resource_missing")
    return place


def list_objects(kind: StripeKind) -> Callable[[Store, Request], Response]:
    """GET /v1/<kind>: newest first, `limit` 1 to 100 (10), after or before an object of the list."""
    known = _COMMON | _CREATED | _FILTERS[kind]

    def answer(store: Store, request: Request) -> Response:
        query = dict(request.query_params)
        before = after = None
        try:
            for name in query:
                if name not in known:
                    raise BadRequest(f"Received unknown parameter: {name}", name, "parameter_unknown")
            limit = _limit(query)
            if "starting_after" in query and "ending_before" in query:
                message = "Please provide only one of starting_after or ending_before."
                raise BadRequest(message, "ending_before")
            if "starting_after" in query:
                before = _place(store, kind, "starting_after", query["starting_after"])
            if "ending_before" in query:
                after = _place(store, kind, "ending_before", query["ending_before"])
            since, until = _range(query)
        except BadRequest as problem:
            return error(400, problem.body)
        equals = {name: query[name] for name in _FILTERS[kind] if name in query}
        # One more than asked says whether there is more; going backwards the surplus is the newest one.
        bodies = store.page(
            kind, limit=limit + 1, since=since, until=until, before=before, after=after, equals=equals
        )
        has_more = len(bodies) > limit
        if has_more:
            bodies = bodies[1:] if after is not None else bodies[:limit]
        more = "true" if has_more else "false"
        text = f'{{"object":"list","url":"/v1/{kind}","has_more":{more},"data":[{",".join(bodies)}]}}'
        return Response(text, media_type="application/json")

    return answer


def get_object(kind: StripeKind) -> Callable[[Store, Request], Response]:
    """GET /v1/<kind>/<id>."""

    def answer(store: Store, request: Request) -> Response:
        identity = request.path_params["id"]
        item = store.get(kind, identity)
        if item is None:
            missing = BadRequest(f"No such {_SINGULAR[kind]}: '{identity}'", "id", "resource_missing")
            return error(404, missing.body)
        return JSONResponse(item)

    return answer
