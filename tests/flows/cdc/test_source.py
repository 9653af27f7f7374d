"""Preparing the application's database for capture, beside what others do there."""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from flows import change_topics
from flows.cdc import source
from flows.errors import FlowsError
from flows.extract import SourceAway, SourceError
from tests.flows.capture import Capture, entity
from tests.flows.streaming.topics import until

ALPHA, BETA = entity("alpha"), entity("beta")


@pytest.mark.full
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


def test_a_role_that_may_give_no_order_is_told_the_grants_and_is_heard_with_them(capture: Capture) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    until(lambda: capture.ids("alpha") == [1, 2, 3])
    role, owner = capture.settings.cdc_prefix, capture.settings
    capture.app(f"create role {role} login password 'x'", f"grant select on alpha to {role}")
    own = make_conninfo(owner.require("app_dsn"), user=role, password="x")
    poor = owner.model_copy(update={"app_dsn": SecretStr(own)})
    try:
        with pytest.raises(SourceError, match=r"^app\.alpha is halted: .* read again\. Role ") as told:
            change_topics._reread(poor, ALPHA, [{"id": 2}])
        grants = re.findall(r"^  (.*);$", str(told.value), re.MULTILINE)
        assert [grant.split(" on ")[0] for grant in grants] == ["grant usage", "grant select, insert, delete"]
        capture.app(*grants)
        change_topics._reread(poor, ALPHA, [{"id": 2}])
        until(lambda: capture.ids("alpha") == [1, 2, 3, 2])
    finally:
        capture.app(f"drop owned by {role}", f"drop role {role}")


@pytest.mark.parametrize(
    "loss", ["alter publication {publication} drop table {signal}", "drop table {signal}"]
)
def test_an_order_that_the_connector_would_not_hear_is_refused_until_it_is_registered_again(
    capture: Capture, loss: str
) -> None:
    capture.tables("alpha")
    capture.register(ALPHA)
    until(lambda: capture.ids("alpha") == [1, 2, 3])
    names = capture.names
    capture.app(loss.format(publication=names.publication, signal=names.signal))
    with pytest.raises(FlowsError, match=r"hears no orders: .* python -m flows cdc register, then repeat"):
        capture.resnapshot(ALPHA)
    capture.register(ALPHA)
    capture.resnapshot(ALPHA)
    until(lambda: capture.ids("alpha") == [1, 2, 3, 1, 2, 3])


def test_a_table_of_which_a_policy_hides_rows_from_the_connector_is_not_read(capture: Capture) -> None:
    """By the role of the connector, whoever gives the order."""
    capture.tables("alpha", "beta")
    role, owner = capture.settings.cdc_prefix, capture.settings
    given = conninfo_to_dict(owner.require("app_dsn"))
    capture.app(
        f"create role {role} login replication password 'x' in role {given['user']}",
        "alter table alpha enable row level security",
        "alter table alpha force row level security",
        f"create policy few on alpha to {role} using (id < 3)",
    )
    own = make_conninfo(owner.require("app_dsn"), user=role, password="x")
    capture.settings = owner.model_copy(update={"cdc_dsn": SecretStr(own)})
    hidden = rf'hides rows of "public"\."alpha" from role {role}, .*: alter role {role} bypassrls; then'
    try:
        with pytest.raises(FlowsError, match=hidden):
            capture.register(ALPHA)
        with capture.client() as client:
            assert client.configuration(capture.names.connector) is None
        capture.register(BETA)
        until(lambda: capture.ids("beta") == [1, 2, 3])
        with pytest.raises(FlowsError, match=hidden):
            capture.register(ALPHA, BETA)
        capture.app("insert into beta values (4, 'told still')")
        until(lambda: capture.ids("beta") == [1, 2, 3, 4])
        capture.app(f"alter role {role} bypassrls")
        capture.register(ALPHA, BETA)
        until(lambda: capture.ids("alpha") == [1, 2, 3], 60)
        capture.app(f"alter role {role} nobypassrls")
        with pytest.raises(FlowsError, match=hidden):
            capture.resnapshot(ALPHA)
    finally:
        capture.end()
        capture.app(f"drop owned by {role}", f"drop role {role}")
