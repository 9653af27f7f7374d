"""What a run says at its end about where to look."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.commands import where_to_look

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
