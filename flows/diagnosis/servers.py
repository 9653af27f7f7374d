"""What is asked by HTTP: Stripe, SendGrid, Prefect's server."""

from __future__ import annotations

import time

from flows.diagnosis import TIMEOUT_SECONDS, Finding
from flows.settings import Settings

_LIMITED = 429


def _api(settings: Settings, entity: str, subject: str, path: str) -> list[Finding]:
    """One page of one list, asked as the batch asks it: the key goes nowhere else than there."""
    from flows.extract.http import AnswerError, Http, RestConnection, RestError

    source = entity.partition(".")[0]
    url, key = settings.require(f"{source}_url"), settings.require(f"{source}_key")
    connection = RestConnection(url, key, tries=1, timeout=TIMEOUT_SECONDS, deadline=2 * TIMEOUT_SECONDS)
    variable = f"ANALYTICS_{source.upper()}"
    begun = time.perf_counter()
    try:
        with Http(entity, connection) as http:
            http.get(path, {"limit": "1"}, bytes)
    except AnswerError as error:
        return [Finding(subject, False, str(error), f"Correct {variable}_KEY or {variable}_URL.")]
    except RestError as error:
        if error.status != _LIMITED:
            advice = f"Correct {variable}_URL or wait for the service."
            return [Finding(subject, False, str(error), advice)]
    answered = f"answers in {(time.perf_counter() - begun) * 1000:.0f} ms"
    return [Finding(subject, True, answered)]


def stripe(settings: Settings) -> list[Finding]:
    """Whether it answers to the key."""
    return _api(settings, "stripe.charges", "Stripe", "/v1/charges")


def sendgrid(settings: Settings) -> list[Finding]:
    """Whether it answers to the key."""
    return _api(settings, "sendgrid.bounces", "SendGrid", "/v3/suppression/bounces")


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
