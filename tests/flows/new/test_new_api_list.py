"""A list of an API begins as its first page shows it, asked as another list of that API is."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flows.errors import FlowsError
from flows.new.api_list import Shape, declaration, look, rows, staging
from flows.sandbox.apis import sendgrid_objects, stripe_objects
from flows.settings import Settings
from tests.docs.markdown import ROOT
from tests.flows.extract.crm import KEY, NOW, WAYS, Answer, Crm, listed
from tests.flows.new.begun import Begun
from transforms.contract import Partition
from transforms.entities import Api, Rest, SourceEntity

SECOND = int(NOW.timestamp())


@pytest.fixture(autouse=True)
def _places(apis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor in ("stripe", "sendgrid"):
        monkeypatch.setenv(f"ANALYTICS_{vendor.upper()}_URL", apis.url)
        monkeypatch.setenv(f"ANALYTICS_{vendor.upper()}_KEY", apis.connection(vendor).key)


def test_a_list_is_declared_and_staged_with_its_fields_and_times(begun: Begun, apis: Any) -> None:
    more = {
        "ratio": 0.5,
        "order": "x",
        "odd name": 1,
        "Amount": 2,
        "transfer_id": 1,
        "seen_at": "2025-10-07T12:00:00Z",
    }
    for number in range(3):
        payout = stripe_objects.payout(
            id=f"po_{number}", amount=5, currency="eur", created=SECOND - number, arrival_date=SECOND
        )
        apis.store.put("payouts", [{**payout, **more}])
    known = begun.new("stripe.transfers", "--read", "/v1/payouts")
    entity, charges = known.entities["raw_stripe__transfers"], known.entities["raw_stripe__charges"]
    assert isinstance(entity.read, Rest)
    assert isinstance(charges.read, Rest)
    assert (entity.read.path, entity.read.paging, entity.read.api) == (
        "/v1/payouts",
        "cursor",
        charges.read.api,
    )
    assert entity.partition == Partition("created", "day")
    table = known.table("stg_stripe__transfers")
    assert table.key == ("transfer_id",)
    types = {column.name: column.type for column in table.columns}
    assert types["created_at"] == types["seen_at"] == "TIMESTAMP WITH TIME ZONE"
    assert (types["ratio"], types["order"], types["arrival_date"]) == ("DOUBLE", "VARCHAR", "BIGINT")
    assert any("would: amount, odd name, Amount, transfer_id." in line for line in begun.draft.next)
    assert begun.differences(known) == []
    path = begun.project.declarations("stripe")
    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml")]
    assert subprocess.run([*ruff, str(path)], capture_output=True, check=False).returncode == 0


def test_it_is_asked_as_the_list_whose_path_is_most_like_it(begun: Begun, apis: Any) -> None:
    apis.store.put("bounces", [sendgrid_objects.bounce(email="a@example.com", created=SECOND, reason="550")])
    known = begun.new("sendgrid.invalid_emails", "--read", "/v3/suppression/bounces", "--key", "email")
    entity = known.entities["raw_sendgrid__invalid_emails"]
    assert isinstance(entity.read, Rest)
    assert (entity.read.paging, entity.read.id_fields) == ("offset", ("email",))
    assert begun.differences(known) == []


def test_a_list_with_nothing_to_go_by_is_refused_and_nothing_is_written(begun: Begun, apis: Any) -> None:
    before = begun.files()
    with pytest.raises(
        FlowsError, match=r"stripe\.transfers: the first page of /v1/payouts has no object with id"
    ):
        begun.new("stripe.transfers", "--read", "/v1/payouts")
    with pytest.raises(FlowsError, match=r"stripe\.invoices: .*/v1/invoices answered 404"):
        begun.new("stripe.invoices")
    with pytest.raises(FlowsError, match="Write what follows its address: --read /v1/payouts"):
        begun.new("stripe.transfers", "--read", "v1/payouts")
    assert begun.files() == before


def _settings(crm: Crm) -> Settings:
    given: dict[str, Any] = {"crm_url": crm.url, "crm_key": KEY}
    return Settings(_env_file=None, **given)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("has_api", [True, False])
def test_what_is_written_is_what_the_other_list_says(way: str, has_api: bool) -> None:
    api = Api(auth="api_key", name="X-Key", headers={"X-Version": "2"})
    read = WAYS[way].read
    assert isinstance(read, Rest)
    more: dict[str, Any] = {"lookback": timedelta(days=2), "parameters": {"q": "a"}, "id_fields": ("a",)}
    like = replace(WAYS[way], name="leads", read=replace(read, api=api, **more))
    assert isinstance(like.read, Rest)
    text = declaration("leads", Shape(like.read, like, []), has_api)
    names = {"API": api, "Api": Api, "Rest": Rest, "SourceEntity": SourceEntity, "Partition": Partition}
    made = eval(text, {**names, "timedelta": timedelta})
    assert made == replace(like, grain="one row per version of a lead seen in the list of leads")
    assert ("api=API" in text) == has_api


def test_a_list_that_has_no_time_where_the_other_has_one_is_read_whole(crm: Crm) -> None:
    crm.put(3)
    shapes = [look(_settings(crm), [WAYS["tokens"]], "deals", "/tokens")]
    for lacking in (1, 3):

        def spoil(_: int, answer: Answer, lacking: int = lacking) -> None:
            timeless = [{**one} for one in answer.body["items"]]
            for one in timeless[:lacking]:
                one.pop("updated_at")
            answer.body["items"] = timeless

        crm.spoil = spoil
        shapes.append(look(_settings(crm), [WAYS["tokens"]], "deals", "/tokens"))
    same, some, none = shapes
    assert same.read == WAYS["tokens"].read
    assert (some.read.since, some.read.event_time) == ("updated_from", None)
    assert (none.read.since, none.read.until, none.read.event_time) == (None, None, None)
    assert [field.name for field in none.fields] == ["amount", "currency", "stage", "created_at"]


def test_times_that_are_milliseconds_come_out_as_times(crm: Crm) -> None:
    deals = listed("x", paging="single_page", records=None, time_format="unix_ms", event_time="made")
    crm.spoil = lambda _, answer: setattr(answer, "body", [{"id": "a", "made": SECOND * 1000}])
    shape = look(_settings(crm), [deals], "deals", "/x")
    text = staging(deals, shape)
    assert "to_timestamp(entry.made / 1000)::timestamptz as made_at" in text
    assert "not_null: [made_at]" in text
    assert f'"made": {int(datetime(2025, 10, 1, 12, tzinfo=UTC).timestamp() * 1000)}' in rows(deals, shape)
