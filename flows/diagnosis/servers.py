"""What is asked by HTTP: Stripe, SendGrid, Prefect's server."""

from __future__ import annotations

import time

from flows.diagnosis import TIMEOUT_SECONDS, Finding
from flows.settings import Settings


def _api(subject: str, url: str, path: str, key: str, variable: str) -> list[Finding]:
    import httpx

    begun = time.perf_counter()
    try:
        answer = httpx.get(
            url.rstrip("/") + path, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_SECONDS
        )
    except httpx.HTTPError:
        return [
            Finding(
                subject,
                False,
                f"{url} does not answer",
                f"Correct ANALYTICS_{variable}_URL or wait for the service.",
            )
        ]
    seen = f"answers {answer.status_code} in {(time.perf_counter() - begun) * 1000:.0f} ms"
    advice = {
        401: f"The key is refused: correct ANALYTICS_{variable}_KEY.",
        403: "The key lacks the right to read this.",
    }
    return [
        Finding(
            subject, answer.status_code in {200, 429}, seen, advice.get(answer.status_code, f"Look at {url}.")
        )
    ]


def stripe(settings: Settings) -> list[Finding]:
    """Whether it answers to the key."""
    return _api(
        "Stripe",
        settings.require("stripe_url"),
        "/v1/charges?limit=1",
        settings.require("stripe_key"),
        "STRIPE",
    )


def sendgrid(settings: Settings) -> list[Finding]:
    """Whether it answers to the key."""
    key = settings.require("sendgrid_key")
    return _api(
        "SendGrid", settings.require("sendgrid_url"), "/v3/suppression/bounces?limit=1", key, "SENDGRID"
    )


def prefect(settings: Settings) -> list[Finding]:
    """Whether the server that is set is healthy; a run needs none."""
    import httpx

    address = settings.prefect_address
    if address is None:
        return [Finding("Prefect", True, "no server is set: runs use a temporary one of their own")]
    try:
        healthy = httpx.get(f"{address}/health", timeout=TIMEOUT_SECONDS).status_code == 200
    except httpx.HTTPError:
        healthy = False
    return [
        Finding(
            "Prefect", healthy, address, "Start the server (prefect server start) or correct PREFECT_API_URL."
        )
    ]
