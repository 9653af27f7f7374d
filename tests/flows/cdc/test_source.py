"""Preparing the application's database for capture, beside what others do there."""

from __future__ import annotations

import psycopg
import pytest

from flows.cdc import source
from flows.extract import SourceAway
from tests.flows.capture import Capture, entity
from tests.flows.streaming.topics import until

ALPHA, BETA = entity("alpha"), entity("beta")


def test_a_registration_behind_a_lock_ends_with_who_holds_it_and_the_next_goes_through(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_LOCK_SECONDS", 1)
    capture.tables("alpha", "beta")
    capture.register(ALPHA)
    with psycopg.connect(
        capture.settings.require("app_dsn"), application_name="indexer", autocommit=False
    ) as other:
        other.execute("create index on beta (label)")
        holder = rf"lock, held by session {other.info.backend_pid} of \w+ \(indexer\), idle in transaction"
        with pytest.raises(SourceAway, match=holder):
            capture.register(ALPHA, BETA)
        assert ("public", "beta") not in (capture.observe(ALPHA).published or {})
    capture.register(ALPHA, BETA)
    until(lambda: capture.ids("beta") == [1, 2, 3])
