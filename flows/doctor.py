"""`python -m flows doctor`: ask every service whether the batch can use it, and say what to do where it
can't.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from flows.diagnosis import Finding
from flows.diagnosis.alerts import channels
from flows.diagnosis.databases import application, warehouse
from flows.diagnosis.disks import folders, story
from flows.diagnosis.servers import api, api_subject, apis, lineage, prefect, strays
from flows.diagnosis.streams import capture, kafka
from flows.errors import FlowsError
from flows.logins import PLACE_TO_DO, has_no_place
from flows.settings import Settings, load
from transforms import registry

_CORRECT_OR_START = "Correct the address or start the service, then ask again."


def examine(settings: Settings) -> list[Finding]:
    """Every check, side by side; a service that does not answer delays the answer by seconds, not more."""
    checks: list[tuple[str, Callable[[Settings], list[Finding]]]] = [
        ("warehouse", warehouse),
        ("application database", application),
        ("Kafka", kafka),
        *((api_subject(entity), partial(api, entity=entity)) for entity in apis(registry.entities())),
        ("settings of APIs", partial(strays, entities=registry.entities())),
        ("lake", folders),
        ("lake: manifests", story),
        ("Prefect", prefect),
        ("change capture", capture),
        ("alerts", channels),
        ("OpenLineage", lineage),
    ]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        answers = pool.map(lambda check: _guarded(check[0], check[1], settings), checks)
        found = {subject: findings for (subject, _), findings in zip(checks, answers, strict=True)}
    has_no_broker = len(found["Kafka"]) == 1 and not found["Kafka"][0].well
    if has_no_broker or not found["application database"][0].well:
        del found["change capture"]  # it stands on both: one reason is told once
    if not all(finding.well for finding in found["warehouse"]):
        del found["lake: manifests"]
    return [finding for findings in found.values() for finding in findings]


def _guarded(subject: str, check: Callable[[Settings], list[Finding]], settings: Settings) -> list[Finding]:
    try:
        # An address may hold a password of its own, and whatever quotes it.
        return [
            replace(finding, seen=settings.scrub(finding.seen), advice=settings.scrub(finding.advice))
            for finding in check(settings)
        ]
    except FlowsError as error:
        return [Finding(subject, False, settings.scrub(str(error)))]
    except Exception as error:  # noqa: BLE001 - whatever a service does, the others are told of
        message = str(error).strip().splitlines() or [type(error).__name__]
        return [
            Finding(
                subject,
                False,
                settings.scrub(message[0]),
                PLACE_TO_DO if has_no_place(message[0]) else _CORRECT_OR_START,
            )
        ]


def command(_: argparse.Namespace) -> int:
    """Print one line per finding; exit 1 when one is not well."""
    findings = examine(load())
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        print(f"{'ok  ' if finding.well else 'FAIL'}  {finding.subject:<{width}}  {finding.seen}")
        if not finding.well and finding.advice:
            print(f"{'':<{width + 8}}{finding.advice}")
    failed = sum(not finding.well for finding in findings)
    print("Everything the batch needs is there." if not failed else f"{failed} to mend.", file=sys.stderr)
    return 1 if failed else 0
