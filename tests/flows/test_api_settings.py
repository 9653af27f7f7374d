"""Address and key of an API that a declaration names: settings of its own, as those of any service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import prepare, scrubbing
from flows.diagnosis.servers import api, apis, strays
from flows.extract.http import RefusedError
from flows.services import Services
from flows.settings import Settings, SettingsError, load
from tests.flows.extract.crm import KEY, WAYS, Answer, Crm
from transforms import registry
from transforms.declared import TAKEN
from transforms.entities import Api, Rest

DEALS = WAYS["tokens"]
CANARY = "hemlich-4711"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scrubbing, "_settings", None)


def _settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)


def test_they_stand_where_every_setting_can_stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from_a_file\n")
    (tmp_path / ".env").write_text(
        "ANALYTICS_CRM_URL=https://crm.example\nANALYTICS_CRM_KEY=in_env\n"
        f"ANALYTICS_SHOP_2_KEY_FILE={tmp_path / 'key'}\nANALYTICS_NEWS_URL=\nPREFECT_API_URL=http://p\n"
    )
    monkeypatch.setenv("ANALYTICS_CRM_KEY", " in_the_environment\n")
    monkeypatch.setenv("Analytics_Shop_2_Url", "https://shop.example/api")
    monkeypatch.setenv("ANALYTICS_NEWS_KEY", "")
    settings = load()
    assert settings.require("crm_url") == "https://crm.example"
    assert settings.require("crm_key") == "in_the_environment"
    assert settings.require("shop_2_url") == "https://shop.example/api"
    assert settings.require("shop_2_key") == "from_a_file"
    assert {*(settings.model_extra or {})} == {"crm_url", "crm_key", "shop_2_url", "shop_2_key"}
    monkeypatch.setenv("ANALYTICS_SHOP_2_KEY", "too")
    with pytest.raises(
        SettingsError, match="ANALYTICS_SHOP_2_KEY and ANALYTICS_SHOP_2_KEY_FILE are both set"
    ):
        load()


def test_one_that_can_not_be_used_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, reason in (
        ("CRM_URL", f"crm.example/{CANARY}", "it is not written like https://host"),
        ("CRM_KEY", f"a {CANARY}", "it holds a space"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(f"ANALYTICS_{name}", value)
            settings = load()
            with pytest.raises(SettingsError, match=f"ANALYTICS_{name} can't be used: {reason}") as caught:
                settings.require(name.lower())
        shown = f"{settings!r} {settings} {settings.model_dump_json()}"
        assert CANARY not in str(caught.value) + shown
    assert CANARY not in settings.scrub(f"failed with {value}")


def test_one_that_can_not_be_used_ends_a_run_that_needs_it_before_it_begins() -> None:
    for given in ({"crm_url": "crm.example", "crm_key": "k"}, {"crm_url": "https://c", "crm_key": "a b"}):
        with pytest.raises(SettingsError, match=r"ANALYTICS_CRM_(URL|KEY) can't be used") as caught:
            prepare.sources(Services(_settings(**given)), [DEALS])
        assert caught.value.exit_code == 2
    own = {"warehouse_dsn": "dbname=w", "app_dsn": "dbname=a", "kafka_bootstrap": "k:1"}
    for name, value in (("stripe_url", "api.stripe.example"), ("sendgrid_key", "a b")):
        with pytest.raises(ValueError, match=r"it holds a space|it is not written like"):
            _settings(**own, **{name: value})


def test_one_that_nothing_needs_stops_no_command_and_the_doctor_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANALYTICS_OTHER_URL", f"other/{CANARY}")
    monkeypatch.setenv("ANALYTICS_SCHOOL_KEY", f"two {CANARY}")
    settings = load()
    assert not settings.debug
    url, key = strays(settings, registry.entities())
    assert (url.well, key.well) == (True, True)
    assert url.subject == "ANALYTICS_OTHER_URL"
    assert "it is not written like https://host" in url.seen
    assert key.seen.endswith("is not needed: transforms/sources declares no API 'school'")
    assert CANARY not in f"{url}{key}"
    assert strays(settings, [replace(DEALS, source="school")]) == [url]


def test_a_key_is_shown_nowhere_nor_the_password_within_it() -> None:
    settings = _settings(crm_key=f"user:{CANARY}", crm_url="https://crm.example")
    shown = f"{settings!r} {settings} {settings.model_dump_json()}"
    shown += settings.scrub(f"failed with user:{CANARY}, {CANARY}, dXNlcjpoZW1saWNoLTQ3MTE=")
    assert "failed with" in shown
    assert CANARY not in shown
    assert "dXNlcjpo" not in shown


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "ANALYTICS_CRM_URL is not set, and transforms/sources declares an API 'crm'. Set it in the"),
        (
            {"crm_url": "https://crm.example"},
            "ANALYTICS_CRM_KEY is not set, and the service of ANALYTICS_CRM_URL",
        ),
        ({"crm_url": "http://crm.example", "crm_key": "k"}, "would carry the key in the clear"),
    ],
)
def test_one_that_is_missing_ends_a_run_before_it_begins(given: dict[str, Any], said: str) -> None:
    with pytest.raises((SettingsError, RefusedError), match=said) as caught:
        prepare.sources(Services(_settings(**given)), [DEALS])
    assert caught.value.exit_code == 2


def test_a_service_that_is_off_is_not_the_sandbox_s_and_is_missed_where_it_is_declared(
    tmp_path: Path,
) -> None:
    own = {
        "warehouse_dsn": "dbname=w",
        "app_dsn": "dbname=a",
        "kafka_bootstrap": "k:1",
        "crm_url": "https://c",
    }
    some = _settings(**own, stripe_url="https://s", sandbox=tmp_path)
    assert some.unset_services == {"sendgrid_url"}
    settings = _settings(**own, stripe_url="https://s", sendgrid_url="off", sandbox=tmp_path)
    assert not settings.uses_sandbox
    with pytest.raises(
        SettingsError, match="ANALYTICS_SENDGRID_URL is off, and transforms/sources"
    ) as caught:
        prepare.sources(Services(settings), [registry.entity("raw_sendgrid__bounces")])
    assert "take the declarations out" in str(caught.value)


def test_an_api_that_takes_no_key_asks_for_no_setting_of_it() -> None:
    assert isinstance(DEALS.read, Rest)
    free = replace(DEALS, read=replace(DEALS.read, api=Api(auth="none")))
    prepare.sources(Services(_settings(crm_url="https://crm.example")), [free])


def test_no_api_can_be_called_as_what_another_setting_is_about() -> None:
    words = {name.rpartition("_") for name in Settings.model_fields}
    assert {name for name, _, part in words if part in {"url", "key"}} == TAKEN


def test_the_doctor_asks_each_declared_api_for_one_page_as_the_batch_asks(crm: Crm) -> None:
    crm.put(3)
    given = {"crm_url": crm.url, "crm_key": KEY}
    found, clock = api(_settings(**given), DEALS)
    assert (found.subject, found.well, clock.subject) == ("API crm", True, "API crm: clock")
    (sent,) = crm.sent
    assert (sent.path, sent.query["per_page"], sent.headers["Authorization"]) == (
        "/tokens",
        "1",
        f"Bearer {KEY}",
    )
    assert {entity.source for entity in apis([*registry.entities(), DEALS])} == {"stripe", "sendgrid", "crm"}


@pytest.mark.parametrize(
    ("answer", "seen", "advice"),
    [
        (Answer({"rows": []}), "it has no 'items'", "the declaration in transforms/sources"),
        (Answer({}, 401), "refused the key (401)", "Correct ANALYTICS_CRM_KEY"),
        (Answer({"message": "no"}, 404), "answered 404 (no)", "the declaration in transforms/sources"),
    ],
)
def test_the_doctor_names_what_does_not_fit(crm: Crm, answer: Answer, seen: str, advice: str) -> None:
    def spoil(_: int, given: Answer) -> None:
        given.body, given.status = answer.body, answer.status

    crm.spoil = spoil
    (found,) = api(_settings(crm_url=crm.url, crm_key=KEY), DEALS)
    assert not found.well
    assert seen in found.seen
    assert advice in found.advice
