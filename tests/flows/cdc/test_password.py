"""The password of the role by which the connector reads is changed under it."""

from __future__ import annotations

import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from tests.flows.capture import Capture, entity
from tests.flows.streaming.topics import until

ALPHA = entity("alpha")


@pytest.mark.full
def test_a_password_that_was_changed_is_told_and_registered_anew_with_nothing_lost(capture: Capture) -> None:
    capture.tables("alpha")
    role, owner = capture.settings.cdc_prefix, capture.settings
    capture.app(f"create role {role} superuser login replication password 'old-canary'")
    own = make_conninfo(owner.require("app_dsn"), user=role, password="old-canary")
    capture.settings = owner.model_copy(update={"cdc_dsn": SecretStr(own)})
    try:
        capture.register(ALPHA)
        until(lambda: capture.ids("alpha") == [1, 2, 3])
        seen = capture.observe(ALPHA)
        capture.app(
            f"alter role {role} password 'new-canary'",
            "insert into alpha values (4, 'told later')",
            f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'",
        )
        until(lambda: capture.halts(ALPHA, since=seen) != [], 60)
        (halt,) = capture.halts(ALPHA, since=seen)
        assert f'the connector has failed (FATAL: password authentication failed for user "{role}")' in halt
        assert halt.endswith(
            "write the password of now into ANALYTICS_CDC_DSN, or where that is not set "
            "ANALYTICS_APP_DSN, then python -m flows cdc register."
        )
        renewed = SecretStr(make_conninfo(own, password="new-canary"))
        capture.settings = owner.model_copy(update={"cdc_dsn": renewed})
        assert capture.register(ALPHA) == ["Changed in the connector's configuration: database.password."]
        until(lambda: capture.ids("alpha") == [1, 2, 3, 4], 60)
        assert capture.halts(ALPHA, since=seen) == []
    finally:
        capture.end()
        capture.app(f"drop owned by {role}", f"drop role {role}")
