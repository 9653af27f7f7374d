"""What a run says before it begins and at its end: where to look, and which setting leads nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.commands import where_to_look
from tests.flows.company import run_here

CANARY = "hunter2-canary-5d1e"


def test_the_password_of_one_s_own_warehouse_is_not_shown_where_the_rest_is_the_sandbox_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", f"postgresql://own:{CANARY}@127.0.0.1:1/warehouse")
    monkeypatch.setenv("ANALYTICS_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("PREFECT_API_URL", f"http://own:{CANARY}@127.0.0.1:1/api")
    said = "\n".join(where_to_look())
    assert CANARY not in said
    assert "ANALYTICS_WAREHOUSE_DSN" in said
    assert "python -m flows sandbox stop" in said


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/api", "nonsense"])
def test_a_server_of_prefect_that_can_not_be_asked_is_told_in_one_sentence(
    tmp_path: Path, address: str
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    nowhere = f"postgresql://own:{CANARY}@127.0.0.1:1/none"
    settings = {"WAREHOUSE_DSN": nowhere, "APP_DSN": nowhere, "KAFKA_BOOTSTRAP": "127.0.0.1:1",
                "STRIPE_URL": "http://127.0.0.1:1", "SENDGRID_URL": "http://127.0.0.1:1"}  # fmt: skip
    environment = {f"ANALYTICS_{name}": value for name, value in settings.items()}
    with temporary_settings({PREFECT_API_URL: address}):
        done = run_here(["run"], tmp_path, environment | {"PREFECT_API_URL": address})
    assert done.code == 2, done.said
    assert "Traceback" not in done.said
    assert "PREFECT_API_URL" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_sandbox_that_can_not_be_where_it_is_named_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = run_here(["sandbox", "start"], tmp_path, {"ANALYTICS_SANDBOX": str(tmp_path / "file" / "sandbox")})
    assert done.code == 2, done.said
    assert "ANALYTICS_SANDBOX" in done.err
    assert len(done.err.strip().splitlines()) == 1
