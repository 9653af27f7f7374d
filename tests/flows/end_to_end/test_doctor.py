"""`python -m flows doctor`: every service asked, and what to do where one can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.company import Place

NOWHERE = "postgresql://analyst:hunter2-canary@127.0.0.1:1/warehouse"


def test_a_running_sandbox_is_well(built: Place) -> None:
    done = built.run("doctor")
    assert done.code == 0, done.out
    assert all(line.startswith("ok ") for line in done.out.splitlines())
    for subject in ("warehouse", "application database", "Kafka", "Stripe", "SendGrid", "lake", "Prefect"):
        assert f"ok    {subject}" in done.out


@pytest.mark.parametrize(
    ("setting", "value", "subject", "advice"),
    [
        ("WAREHOUSE_DSN", NOWHERE, "warehouse", "Correct the address or start the service"),
        ("APP_DSN", NOWHERE, "application database", "Correct the address or start the service"),
        ("KAFKA_BOOTSTRAP", "127.0.0.1:1", "Kafka", "ANALYTICS_KAFKA_BOOTSTRAP"),
        ("STRIPE_URL", "http://127.0.0.1:1", "Stripe", "ANALYTICS_STRIPE_URL"),
        ("STRIPE_KEY", "sk_wrong_canary", "Stripe", "ANALYTICS_STRIPE_KEY"),
        ("SENDGRID_KEY", "SG.wrong_canary", "SendGrid", "ANALYTICS_SENDGRID_KEY"),
    ],
)
def test_a_service_that_can_not_be_used_is_named_with_what_to_do(
    built: Place, setting: str, value: str, subject: str, advice: str
) -> None:
    done = built.run("doctor", **{f"ANALYTICS_{setting}": value})
    assert done.code == 1
    failed = [line for line in done.out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1, done.out
    assert failed[0].split(maxsplit=1)[1].startswith(subject)
    assert advice in done.out
    assert "canary" not in done.said
    assert "Traceback" not in done.said


def test_a_lake_that_can_not_be_written_is_named(built: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = built.run("doctor", ANALYTICS_LAKE=str(tmp_path / "file" / "lake"))
    assert done.code == 1
    assert "FAIL  lake" in done.out
    assert "ANALYTICS_LAKE" in done.out


def test_a_lake_that_is_not_mounted_is_named(built: Place, tmp_path: Path) -> None:
    done = built.run("doctor", ANALYTICS_LAKE=str(tmp_path / "mount"))
    assert done.code == 1
    assert [line.split("  ")[1] for line in done.out.splitlines() if line.startswith("FAIL")] == [
        "lake: manifests"
    ]
    assert f"The lake is not there: {tmp_path / 'mount'} has no manifest" in done.out


def test_tables_that_are_missing_at_the_application_are_listed(built: Place, copy: Place) -> None:
    done = built.run("doctor", ANALYTICS_APP_DSN=copy.warehouse_dsn)
    assert done.code == 1
    assert "0 of 15 tables can be read" in done.out
    assert "public.orders" in done.out
