"""What the doctor asks and does not ask, without a sandbox around it."""

from __future__ import annotations

from typing import Any

import pytest

from flows.diagnosis.servers import sendgrid, stripe
from flows.settings import Settings


def _settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


@pytest.mark.parametrize(
    ("vendor", "path"), [("stripe", "/v1/charges"), ("sendgrid", "/v3/suppression/bounces")]
)
def test_a_key_is_not_sent_where_a_run_would_not_send_it(apis: Any, vendor: str, path: str) -> None:
    ask = {"stripe": stripe, "sendgrid": sendgrid}[vendor]
    key = apis.connection(vendor).key
    # The same server, by an address that is not this machine's own loopback.
    elsewhere = apis.url.replace("127.0.0.1", "0.0.0.0")
    before = apis.requests(path)
    (found,) = ask(_settings(**{f"{vendor}_url": elsewhere, f"{vendor}_key": key}))
    assert not found.well
    assert "in the clear" in found.seen
    assert apis.requests(path) == before

    (found,) = ask(_settings(**{f"{vendor}_url": apis.url, f"{vendor}_key": key}))
    assert found.well, found
    assert apis.requests(path) == before + 1


def test_a_proxy_for_the_way_out_is_not_asked_for_this_machine_s_own_services(
    apis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    (found,) = stripe(_settings(stripe_url=apis.url, stripe_key=apis.connection().key))
    assert found.well, found


def test_a_service_that_asks_for_patience_is_there(apis: Any) -> None:
    apis.limit("stripe", 0, 3600)
    (found,) = stripe(_settings(stripe_url=apis.url, stripe_key=apis.connection().key))
    assert found.well, found
