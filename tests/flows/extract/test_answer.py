"""An answer taken apart whole is what it is taken apart piece by piece; one bad record costs only itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.extract import answer
from flows.extract.answer import parse

IDS = ("id",)
TEXT = st.text(st.characters(codec="utf-8"))
NUMBER = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(JSON | st.dictionaries(st.just("id"), JSON, max_size=1), max_size=6)


@given(RECORDS, st.booleans(), st.sampled_from([None, 1]))
def test_both_ways_give_the_same_records(items: list[Any], in_an_object: bool, indent: int | None) -> None:
    document = {"has_more": True, "data": items} if in_an_object else items
    body = json.dumps(document, ensure_ascii=False, indent=indent).encode()
    records = "data" if in_an_object else None
    whole = answer._whole(body, records, IDS)
    assert whole is not None
    assert whole == answer._piece_by_piece(body, records, IDS)


@pytest.mark.parametrize("depth", [10, 900, 980, 1000, 1020, 1023, 1100, 5000, 100_000])
def test_however_deep_a_record_is_the_others_of_its_page_are_read(depth: int) -> None:
    deep = b'{"id":"deep","x":' + b"[" * depth + b"]" * depth + b"}"
    found = parse(b'{"data":[' + deep + b',{"id":"flat"}],"has_more":false}', "data", IDS)
    assert [record.text for record in found.records] == [deep, b'{"id":"flat"}']
    assert found.records[1].id == "flat"
    assert (found.records[0].id == "deep") != (found.records[0].reason is not None)
