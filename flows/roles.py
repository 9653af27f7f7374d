"""`python -m flows roles`: make the warehouse's roles and rights as they must be, and say who has which."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from flows.services import open_services
from flows.stores import roles
from flows.stores.ledger import Ledger

_MAY = {
    "owner": "owns schemas and ledgers: may change them, and all that loader may",
    "loader": "runs the pipeline: makes and fills published tables",
    "pii_reader": "reads what is published, personal data too",
    "reader": "reads what is published, personal data masked",
}


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows roles`."""
    services = open_services()
    with services.warehouse.connect() as connection:
        with Ledger(connection).locked("bootstrap", "warehouse"):
            is_ours = roles.lay(connection)
            handed = roles.hand_over(connection) if is_ours else []
        found = roles.members(connection)
    if arguments.json:
        listed = [asdict(member) for member in found]
        print(json.dumps({"made": is_ours, "handed_over": handed, "members": listed}))
        return 0
    if is_ours:
        print("Schemas, roles and rights are as they have to be.")
    if handed:
        print(f"{len(handed)} tables and views belong to loader now: {', '.join(handed[:5])}")
    for role, may in _MAY.items():
        logins = ", ".join(member.login for member in found if member.role == role)
        print(f"  {role:<11} {may:<70} {logins or '(nobody yet)'}")
    if not found:
        print("Give them to logins: grant loader to …; grant reader to …; grant pii_reader to …;")
    return 0
