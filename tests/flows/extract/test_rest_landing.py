"""A third API by its declaration alone, through the real landing into a lake and its ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.extract.http import RestError
from tests.flows.extract.crm import KEY, WAYS, Answer, Crm, deal
from tests.flows.extract.parts import World
from tests.house import Server

DEALS = WAYS["numbered, with a total"]


@pytest.fixture
def world(postgres18: Server, tmp_path: Path, crm: Crm) -> World:
    return World.build(postgres18, tmp_path, crm_url=crm.url, crm_key=KEY, retries=0)


def test_what_it_lists_lands_once_and_a_change_once_more(crm: Crm, world: World) -> None:
    put = crm.put(70)
    landing = world.land(DEALS)
    assert landing is not None
    assert (landing.rows, landing.windows, landing.dead_letters) == (70, {"2025-11-03": 70}, 0)
    assert [name for (name,) in world.raw(DEALS, "select id from raw order by id")] == put
    assert world.raw(DEALS, "select object->>'amount' from raw where id = 'd00000'") == [("100.50",)]
    assert world.land(DEALS) is None

    now = world.services().settings.now()
    crm.deals[5] = deal(5, stage="won", updated_at=f"{now:%FT%TZ}"[:11] + "00:00:00Z")
    crm.deals[6] = {"updated_at": f"{now:%FT%TZ}", "no": "id"}
    crm.otherwise = lambda: {"data": {"items": crm.deals[5:7]}, "meta": {"total": 2}}
    landing = world.land(DEALS)
    assert landing is not None
    assert (landing.rows, landing.dead_letters) == (1, 1)
    stages = world.raw(DEALS, "select object->>'stage' from raw where id = 'd00005' order by _landed_at")
    assert stages == [("open",), ("won",)]
    letters = world.warehouse("select source, entity, reason, payload from ops.dead_letter")
    assert [row[:3] for row in letters] == [("crm", "deals", "no usable 'id'")]
    assert json.loads(bytes(letters[0][3]))["no"] == "id"


@pytest.mark.parametrize(
    ("status", "said"), [(500, "answered 500"), (401, r"refused the key \(401\)"), (403, "answered 403")]
)
def test_a_read_that_breaks_in_the_midst_lands_nothing_and_the_next_all(
    crm: Crm, world: World, status: int, said: str
) -> None:
    crm.put(70)

    def spoil(number: int, answer: Answer) -> None:
        answer.status = status if number == 3 else 200

    crm.spoil = spoil
    with pytest.raises(RestError, match=said):
        world.land(DEALS)
    assert world.raw(DEALS) == []
    assert world.land_rows(DEALS) == 70


def test_a_key_of_another_account_lands_nothing_and_the_ledger_knows_none(crm: Crm, world: World) -> None:
    now = world.services().settings.now()
    crm.deals = [deal(number, updated_at=f"{now:%FT%T}Z") for number in range(3)]
    # What is of this second, the range leaves to the next read.
    crm.otherwise = lambda: {"data": {"items": crm.deals}, "meta": {"total": len(crm.deals)}}
    assert world.land_rows(DEALS) == 3
    (kept,) = world.warehouse("select positions::text from ops.position where entity = 'raw_crm__deals'")
    assert KEY not in kept[0]
    world.settings["crm_key"] = "another_accounts"
    crm.deals = [deal(9)]
    with pytest.raises(RestError, match="none of the 3 objects that were read last is there") as caught:
        world.land(DEALS)
    assert "Set ANALYTICS_CRM_KEY to one of the account that was read" in str(caught.value)
    assert len(world.raw(DEALS)) == 3
