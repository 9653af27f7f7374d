"""Whose objects a list has, and which of them have changed where it can't be asked by time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from flows.extract.http import RestError
from flows.extract.rest import key_digest, read
from flows.sandbox.apis.actions import refund_charge
from tests.flows.extract.test_rest import CHARGES, NOW, SECOND, charge, drain, everything, ids
from transforms.entities import Rest


def test_a_new_key_of_the_same_account_goes_on_and_another_accounts_is_told(apis: Any) -> None:
    apis.store.put("charges", [charge(number) for number in range(3)])
    first = everything(apis, CHARGES)
    drain(first)
    assert apis.connection().key not in str(first.positions)
    rotated = {**first.positions, "key": key_digest(replace(apis.connection(), key="sk_of_before"))}
    second = read(CHARGES, apis.connection(), rotated, NOW)
    assert drain(second) == []
    assert (second.warnings, second.positions) == ([], first.positions)

    # Of a position that an earlier version has written nobody knows the key.
    unknown = {name: value for name, value in first.positions.items() if name != "key"}
    apis.store.delete("charges", "ch_00000")
    apis.store.delete("charges", "ch_00001")
    assert drain(read(CHARGES, apis.connection(), rotated, NOW)) == [], "one that is there is enough"
    apis.store.delete("charges", "ch_00002")
    apis.store.put("charges", [charge(7)])
    assert ids(drain(read(CHARGES, apis.connection(), unknown, NOW))) == ["ch_00007"]
    with pytest.raises(RestError) as caught:
        drain(read(CHARGES, apis.connection(), rotated, NOW))
    said = str(caught.value)
    assert said.startswith(
        "stripe.charges: it is read with another key than before, and none of the 3 objects"
    )
    assert "Set ANALYTICS_STRIPE_KEY to one of the account that was read" in said

    untold = {**rotated, "digests": {}}
    third = read(CHARGES, apis.connection(), untold, NOW)
    assert ids(drain(third)) == ["ch_00007"]
    assert "another key than before, and nothing that was read last tells" in third.warnings[0]
    assert not read(CHARGES, apis.connection(), third.positions, NOW).warnings


def test_a_list_that_can_not_be_asked_by_time_lands_what_has_changed_and_nothing_else(
    apis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read goes through all of it."""
    assert isinstance(CHARGES.read, Rest)
    whole = replace(CHARGES, read=replace(CHARGES.read, since=None, until=None))
    apis.store.put("charges", [charge(number) for number in range(150)])
    first = everything(apis, whole)
    assert len(drain(first)) == 150

    refund_charge(apis.store, "ch_00149", 40, SECOND + 1)
    second = read(whole, apis.connection(), first.positions, NOW + timedelta(minutes=1))
    assert ids(drain(second)) == ["ch_00149"]
    third = read(whole, apis.connection(), second.positions, NOW + timedelta(days=2))
    assert drain(third) == []
    assert not third.warnings

    monkeypatch.setattr("flows.extract.rest._REMEMBERED", 100)
    few = everything(apis, whole)
    assert len(drain(few)) == 150
    again = read(whole, apis.connection(), few.positions, NOW + timedelta(minutes=1))
    assert len(drain(again)) == 50
    assert "stripe.charges: it has 100 objects or more and is read whole each time" in again.warnings[0]
