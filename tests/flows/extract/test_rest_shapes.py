"""What an API lists, whatever it looks like: deep in the answer, alone, searched for, in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flows.extract.http import RestError
from tests.flows.extract.crm import NOW, WAYS, Answer, Crm, asked, deal, ids, listed
from transforms.entities import Rest, SourceEntity


def _read(entity: SourceEntity, **words: Any) -> SourceEntity:
    assert isinstance(entity.read, Rest)
    return replace(entity, read=replace(entity.read, **words))


@pytest.mark.parametrize("records", ["data.items", "items"])
def test_one_bad_record_of_a_list_deep_in_the_answer_costs_itself(crm: Crm, records: str) -> None:
    inner = b'{"items": [{"id": "a"}, {"id": "b" "n": 1}, {"id": "c"}], "after": null}'
    body = b'{"data": ' + inner + b', "n": 1}' if records == "data.items" else inner
    crm.spoil = lambda _, answer: setattr(answer, "body", body)
    extract = asked(crm, listed("x", paging="single_page", records=records))
    assert ids(extract) == ["a", "c"]
    (letter,) = extract.dead_letters
    assert letter.payload == b'{"id": "b" "n": 1}'


@pytest.mark.parametrize("body", [b'{"data": {"other": []}}', b'{"data": []}', b'{"data": null}', b"[]"])
def test_a_list_that_is_not_where_it_is_declared_is_loud(crm: Crm, body: bytes) -> None:
    crm.spoil = lambda _, answer: setattr(answer, "body", body)
    with pytest.raises(RestError, match="sent a broken answer: it "):
        ids(asked(crm, WAYS["numbered"]))


NULLS = {
    "numbered, with a total": {"data": {"items": None}, "meta": {"total": 0}},
    "numbered": {"data": {"items": None}},
    "tokens, with more": {"items": None, "next": {"after": ""}, "more": False},
    "offset": None,
}
"""An answer without a record of services that write null for a list that is empty."""


@pytest.mark.parametrize("way", NULLS)
def test_null_for_an_empty_list_is_none_where_it_is_declared_to_be_and_else_says_how_to(
    crm: Crm, way: str
) -> None:
    put = crm.put(20)

    def spoil(_: int, answer: Answer) -> None:
        found = answer.body
        while isinstance(found, dict):
            found = next(iter(found.values()))
        if not found:
            answer.body = NULLS[way]

    entity = _read(WAYS[way], null_is_empty=True)
    assert ids(asked(crm, entity)) == put
    crm.spoil = lambda _, answer: setattr(answer, "body", NULLS[way])
    assert ids(asked(crm, entity)) == []
    with pytest.raises(
        RestError, match=r"null where a list is declared\. If this API means by it that there"
    ):
        ids(asked(crm, WAYS[way]))


@pytest.mark.parametrize(
    ("way", "body", "said"),
    [
        (
            "numbered, with a total",
            {"data": {"items": None}, "meta": {"total": 5}},
            "says that there are 5 rec",
        ),
        ("tokens, with more", {"items": None, "next": {}, "more": True}, "says there is more but not where"),
        ("numbered", {"data": None}, "it is no JSON object"),
        ("numbered", {"data": {}}, "it has no 'items'"),
    ],
)
def test_null_that_something_beside_it_belies_is_loud_whatever_is_declared(
    crm: Crm, way: str, body: Any, said: str
) -> None:
    crm.spoil = lambda _, answer: setattr(answer, "body", body)
    with pytest.raises(RestError, match=said):
        ids(asked(crm, _read(WAYS[way], null_is_empty=True)))


def test_a_single_object_is_a_list_of_one_that_lands_when_it_changes(crm: Crm) -> None:
    account = listed("account", paging="single_page", records=None, since=None, until=None)
    first = asked(crm, account)
    assert ids(first) == ["acc_1"]
    assert crm.sent[0].query == {}
    second = asked(crm, account, first.positions)
    assert ids(second) == []

    def spoil(_: int, answer: Answer) -> None:
        answer.body["plan"] = "small"

    crm.spoil = spoil
    assert ids(asked(crm, account, second.positions)) == ["acc_1"]


def test_a_search_sends_its_body_with_the_range_and_the_page_in_it(crm: Crm) -> None:
    crm.put(80)
    words = {"filter": [{"field": "updated", "from": "{since}", "to": "{until}"}], "deep": {"kept": True}}
    search = _read(
        WAYS["search"], body=words, since=None, until=None, cursor_param="after", limit_param="deep.size"
    )
    crm.spoil = lambda _, answer: None
    extract = asked(crm, search)
    assert len(ids(extract)) == 80
    first, second, *_ = crm.sent
    assert (first.method, first.query) == ("POST", {})
    assert first.body == {
        "filter": [{"field": "updated", "from": "2000-01-01T00:00:00Z", "to": "2025-11-03T12:00:00Z"}],
        "deep": {"kept": True, "size": 20},
    }
    assert second.body == {**first.body, "after": "20"}
    # It is asked by time, so that the next read covers what has come since.
    assert len(extract.positions["digests"]) == 60
    # This service gives all of them all the same: what is older than the range is no one's to remember.
    assert len(ids(asked(crm, search, extract.positions))) == 20
    assert crm.sent[-1].body["filter"][0]["from"] == "2025-11-03T11:00:00Z"


def test_times_in_milliseconds_are_asked_for_and_read_as_that(crm: Crm) -> None:
    at = int(NOW.timestamp() * 1000) - 90_000_000
    crm.spoil = lambda _, answer: setattr(answer, "body", [deal(1, updated_at=at)])
    extract = asked(
        crm,
        listed("x", paging="single_page", records=None, time_format="unix_ms", until_is_inclusive=True),
    )
    assert ids(extract) == ["d00001"]
    assert extract.windows == {"2025-11-02": 1}
    assert crm.sent[0].query == {"updated_from": "946684800000", "updated_to": "1762171199999"}


def test_a_key_of_several_fields_may_be_deep_in_the_object(crm: Crm) -> None:
    rows = [{"owner": {"id": owner}, "n": n, "updated_at": "2025-11-03"} for owner in "ab" for n in (1, 2)]
    crm.spoil = lambda _, answer: setattr(answer, "body", [*rows, {"owner": None, "n": 3}])
    extract = asked(crm, listed("x", paging="single_page", records=None, id_fields=("owner.id", "n")))
    assert len({*ids(extract)}) == 4
    assert [letter.reason for letter in extract.dead_letters] == ["no usable 'owner.id'"]


def test_a_range_about_a_field_that_no_object_has_is_said(crm: Crm) -> None:
    crm.put(3)
    extract = asked(crm, _read(WAYS["tokens"], recorded_at="created"))
    assert len(ids(extract)) == 3
    (said,) = extract.warnings
    assert said.startswith("crm.deals: none of 3 objects has a time at created")
    assert "`recorded_at=`" in said
