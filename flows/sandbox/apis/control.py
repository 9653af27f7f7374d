"""`/_control`: how tests and people make the simulated services change and misbehave.

`/_control/faults`: GET lists what is armed, POST arms one (see faults.py), DELETE disarms all.
`/_control/objects/<list>`: POST puts the objects of the body, DELETE `…/<list>/<id>` takes one out.
`/_control/charges` and `/_control/refunds`: POST does all that a charge or a refund does.
`/_control/limits`: PUT {stripe|sendgrid: {requests, seconds}} sets rate limits.
`/_control/requests`: GET counts the requests answered so far by path.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import asdict

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flows.sandbox.apis.actions import create_charge, refund_charge
from flows.sandbox.apis.faults import KINDS, Fault
from flows.sandbox.apis.limits import RateLimit
from flows.sandbox.apis.store import SENDGRID_KINDS, STRIPE_KINDS, Store


def routes(
    store: Store,
    faults: list[Fault],
    limits: MutableMapping[str, RateLimit],
    requests: Counter[str],
) -> list[Route]:
    """The control routes over the state that the server shares with them."""

    async def arm(request: Request) -> Response:
        # The lenient parser: a record that is no UTF-8 comes as lone surrogates.
        faults.append(Fault.from_json(json.loads(await request.body())))
        return JSONResponse({"armed": len(faults)})

    async def disarm(_: Request) -> Response:
        faults.clear()
        return JSONResponse({"armed": 0})

    async def armed(_: Request) -> Response:
        return JSONResponse({"kinds": KINDS, "faults": [asdict(fault) for fault in faults]})

    async def put_objects(request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in (*STRIPE_KINDS, *SENDGRID_KINDS):
            raise ValueError(f"'{kind}' is no list")
        objects = orjson.loads(await request.body())
        return JSONResponse({"put": store.put(kind, objects if isinstance(objects, list) else [objects])})

    async def delete_object(request: Request) -> Response:
        store.delete(request.path_params["kind"], request.path_params["id"])
        return JSONResponse({"deleted": request.path_params["id"]})

    async def charge(request: Request) -> Response:
        document = orjson.loads(await request.body())
        create_charge(store, document)
        return JSONResponse(document)

    async def refund(request: Request) -> Response:
        document = orjson.loads(await request.body())
        return JSONResponse(
            refund_charge(store, document["charge"], int(document["amount"]), int(document["created"]))
        )

    async def set_limits(request: Request) -> Response:
        for vendor, limit in orjson.loads(await request.body()).items():
            limits[vendor] = RateLimit(int(limit["requests"]), float(limit["seconds"]))
        return JSONResponse({vendor: asdict(limit) for vendor, limit in limits.items()})

    async def counted(_: Request) -> Response:
        return JSONResponse(dict(requests))

    return [
        Route("/_control/faults", arm, methods=["POST"]),
        Route("/_control/faults", disarm, methods=["DELETE"]),
        Route("/_control/faults", armed, methods=["GET"]),
        Route("/_control/objects/{kind}", put_objects, methods=["POST"]),
        Route("/_control/objects/{kind}/{id}", delete_object, methods=["DELETE"]),
        Route("/_control/charges", charge, methods=["POST"]),
        Route("/_control/refunds", refund, methods=["POST"]),
        Route("/_control/limits", set_limits, methods=["PUT"]),
        Route("/_control/requests", counted, methods=["GET"]),
    ]


async def refused(_: Request, problem: Exception) -> Response:
    """A control request that makes no sense, in one sentence."""
    return JSONResponse({"error": f"{type(problem).__name__}: {problem}"}, status_code=400)
