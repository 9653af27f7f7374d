"""What is asked by HTTP: the APIs, Prefect's server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING

from flows import api_settings
from flows.diagnosis import TIMEOUT_SECONDS, Finding, clock
from flows.settings import Settings
from transforms.entities import Rest, SourceEntity

if TYPE_CHECKING:
    import httpx


def api(settings: Settings, entity: SourceEntity) -> list[Finding]:
    """Whether an API answers to the key and as declared, and its clock. One page of one list is asked for, as
    the batch asks: the key goes nowhere else than there.
    """
    from flows.extract.api import connection
    from flows.extract.asking import SECOND, Asking, Window
    from flows.extract.http import AnswerError, RestError
    from flows.extract.oauth import opened

    read, subject = entity.read, api_subject(entity)
    assert isinstance(read, Rest)
    url, key = (api_settings.variable(entity.source, part) for part in (api_settings.URL, api_settings.KEY))
    limits = {"tries": 1, "timeout": TIMEOUT_SECONDS, "deadline": 2 * TIMEOUT_SECONDS}
    now = settings.now().replace(microsecond=0)
    asked = settings.machine_time()
    try:
        with opened(entity.place, connection(settings, entity, **limits), read.api) as http:
            Asking(entity.place, replace(read, page_size=1), http, 1).page(Window(now - SECOND, now), {})
    except AnswerError as error:
        advice = f"Correct {key} or {url}, or the declaration in transforms/sources."
        return [Finding(subject, False, str(error), advice)]
    except RestError as error:
        if error.status != HTTPStatus.TOO_MANY_REQUESTS:
            advice = (
                f"Correct {url} or wait for the service; where it answers otherwise than declared, "
                "correct the declaration in transforms/sources."
            )
            return [Finding(subject, False, str(error), advice)]
    answered = settings.machine_time()
    found = [Finding(subject, True, f"answers in {(answered - asked) * 1000:.0f} ms")]
    if http.answered_at is not None:
        found.append(clock(subject, http.answered_at.timestamp(), asked, answered))
    return found


def api_subject(entity: SourceEntity) -> str:
    """What findings call the API of a list."""
    assert isinstance(entity.read, Rest)
    return entity.read.api.title or f"API {entity.source}"


def strays(settings: Settings, entities: Iterable[SourceEntity]) -> list[Finding]:
    """Settings of APIs that can't be what they say, where no API of their name is declared: nothing needs
    them, so all is well.
    """
    found = api_settings.unusable(settings.model_extra or {}, {entity.source for entity in entities})
    said = "can't be used ({}), and is not needed: transforms/sources declares no API '{}'"
    return [
        Finding(f"ANALYTICS_{name.upper()}", True, said.format(reason, name.rpartition("_")[0]))
        for name, reason in sorted(found.items())
    ]


def apis(entities: Iterable[SourceEntity]) -> list[SourceEntity]:
    """One list of each API: one that pages, where there is one, as others have to be asked for a range."""
    found: dict[str, SourceEntity] = {}
    for entity in entities:
        if isinstance(entity.read, Rest):
            known = found.setdefault(entity.source, entity)
            if isinstance(known.read, Rest) and known.read.paging == "window":
                found[entity.source] = entity
    return list(found.values())


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
