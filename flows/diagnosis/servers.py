"""What is asked by HTTP: Stripe, SendGrid, Prefect's server."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING

from flows.diagnosis import TIMEOUT_SECONDS, Finding, clock
from flows.settings import Settings

if TYPE_CHECKING:
    import httpx


def _api(settings: Settings, entity: str, subject: str, path: str) -> list[Finding]:
    """One page of one list, asked as the batch asks it: the key goes nowhere else than there."""
    from flows.extract.http import AnswerError, Http, RestConnection, RestError

    source = entity.partition(".")[0]
    url, key = settings.require(f"{source}_url"), settings.require(f"{source}_key")
    connection = RestConnection(url, key, tries=1, timeout=TIMEOUT_SECONDS, deadline=2 * TIMEOUT_SECONDS)
    variable = f"ANALYTICS_{source.upper()}"
    asked = settings.machine_time()
    try:
        with Http(entity, connection) as http:
            http.get(path, {"limit": "1"}, bytes)
    except AnswerError as error:
        return [Finding(subject, False, str(error), f"Correct {variable}_KEY or {variable}_URL.")]
    except RestError as error:
        if error.status != HTTPStatus.TOO_MANY_REQUESTS:
            advice = f"Correct {variable}_URL or wait for the service."
            return [Finding(subject, False, str(error), advice)]
    answered = settings.machine_time()
    found = [Finding(subject, True, f"answers in {(answered - asked) * 1000:.0f} ms")]
    if http.answered_at is not None:
        found.append(clock(subject, http.answered_at.timestamp(), asked, answered))
    return found


def stripe(settings: Settings) -> list[Finding]:
    """Whether it answers to the key, and its clock."""
    return _api(settings, "stripe.charges", "Stripe", "/v1/charges")


def sendgrid(settings: Settings) -> list[Finding]:
    """Whether it answers to the key, and its clock."""
    return _api(settings, "sendgrid.bounces", "SendGrid", "/v3/suppression/bounces")


def prefect(settings: Settings) -> list[Finding]:
    """Whether the server that is set is healthy, its version and its clock; a run needs none."""
    import httpx

    from flows.extract.http_said import date_of
    from flows.http_client import client

    address = settings.prefect_address
    if address is None:
        return [Finding("Prefect", True, "no server is set: runs use a temporary one of their own")]
    asked = settings.machine_time()
    try:
        with client(f"{address.rstrip('/')}/", seconds=TIMEOUT_SECONDS) as server:
            health = server.get("health")
            told = server.get("admin/version")
        is_healthy = health.status_code == httpx.codes.OK
    except httpx.HTTPError:
        is_healthy = False
    if not is_healthy:
        advice = "Start the server (prefect server start) or correct PREFECT_API_URL."
        return [Finding("Prefect", False, address, advice)]
    found = [Finding("Prefect", True, address), _prefect_version(told)]
    if (at := date_of(told.headers)) is not None:
        found.append(clock("Prefect", at.timestamp(), asked, settings.machine_time()))
    return found


def lineage(settings: Settings) -> list[Finding]:
    """Whether what takes OpenLineage events is there, where one is set: of one that is not a run says a line,
    and goes on.
    """
    from flows.openlineage.receiver import Receiver

    receiver = Receiver.of(settings)
    if receiver is None:
        return []
    subject = "OpenLineage"
    if (trouble := receiver.tried()) is not None:
        advice = trouble.advice[0].upper() + trouble.advice[1:]
        return [Finding(subject, False, f"{receiver.shown}: {trouble.reason}", advice)]
    return [Finding(subject, True, f"{receiver.shown} can be told")]


def _prefect_version(answer: httpx.Response) -> Finding:
    """The server's version beside this machine's: a server may be newer, an older one does not know all that
    is asked.
    """
    subject, here = "Prefect: version", version("prefect")
    if answer.status_code != HTTPStatus.OK:
        return Finding(subject, True, f"the server does not tell ({answer.status_code}); {here} here")
    there = str(answer.json())
    ours, theirs = (tuple(int(part) for part in text.split(".")[:2]) for text in (here, there))
    return Finding(
        subject,
        ours[0] == theirs[0] and theirs >= ours,
        f"{there} at the server, {here} here",
        f"Update the server to Prefect {here}: one of another major version is refused, an older one may not "
        "know what it is asked.",
    )
