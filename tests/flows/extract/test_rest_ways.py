"""Each way of paging, of an API that is there by its declaration alone: all that it lists, once, or loud."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from flows.extract.http import RefusedError, RestError
from tests.flows.extract.crm import NOW, WAYS, Answer, Crm, asked, deal, ids
from transforms.entities import Rest, SourceEntity

TOLD = [name for name in WAYS if name not in {"numbered", "offset"}]
"""The ways in which answers tell how it goes on."""
FLAGS = ["tokens, with more", "tokens, with an end"]
CURSORS = ["tokens", *FLAGS, "search"]
LINKS = ["linked by the header", "linked by the body"]


def _read(entity: SourceEntity, **words: Any) -> SourceEntity:
    assert isinstance(entity.read, Rest)
    return replace(entity, read=replace(entity.read, **words))


def _flag(answer: Answer, more: bool) -> None:
    """Have an answer tell that there is more, or that it was the last one."""
    answer.body |= {"more": more, "last": not more}


def _next(answer: Answer, there: str | None) -> None:
    """Have an answer tell that it goes on there."""
    if isinstance(answer.body, list):
        answer.headers["Link"] = f'<{there}>; rel="next"'
    elif "next" in answer.body:
        answer.body["next"]["after"] = there
    else:
        answer.body["@next.link"] = there


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 60, 95])
def test_all_that_is_listed_arrives_once_and_what_is_new_with_the_next_read(
    crm: Crm, way: str, count: int
) -> None:
    put = crm.put(count)
    first = asked(crm, WAYS[way])
    assert ids(first) == put
    # Of a page that is full and says nothing of a next one nobody can tell whether the name of that is right.
    is_unsure = count == 20 and way in {"linked by the header", "linked by the body", "tokens", "search"}
    assert len(first.warnings) == is_unsure
    assert first.windows == ({"2025-11-03": count} if count else {})
    assert all(one.query.get("per_page", "20") == "20" for one in crm.sent)

    crm.deals.insert(0, deal(-3))
    later = NOW + timedelta(minutes=5)
    second = asked(crm, WAYS[way], first.positions, later)
    assert ids(second) == ["d-0003"]
    # An hour of lookback, and no more than that; where nothing was ever seen, all.
    since = "2025-11-03T11:00:00Z" if count else "2000-01-01T00:00:00Z"
    assert {**crm.sent[-1].query, **(crm.sent[-1].body or {})}["updated_from"] == since


@pytest.mark.parametrize("way", WAYS)
def test_pages_that_are_shorter_than_asked_for_hide_nothing(crm: Crm, way: str) -> None:
    """An API has a largest page of its own, whatever is asked for."""
    crm.most = 7
    put = crm.put(50)
    assert ids(asked(crm, WAYS[way])) == put


@pytest.mark.parametrize("way", WAYS)
def test_a_page_that_fails_in_passing_is_asked_for_again(crm: Crm, way: str) -> None:
    put = crm.put(70)

    def spoil(number: int, answer: Answer) -> None:
        if number in {1, 3}:
            answer.status = 503

    crm.spoil = spoil
    assert ids(asked(crm, WAYS[way])) == put


@pytest.mark.parametrize("way", TOLD)
def test_a_list_that_leads_back_stops_within_two_repeats(crm: Crm, way: str) -> None:
    crm.put(100)
    pages: list[Any] = []

    def spoil(number: int, answer: Answer) -> None:
        pages.append(answer.body)
        if number >= 2:  # what came second comes for ever, and so does where it leads to
            answer.body, answer.headers = pages[1], {}
            if isinstance(answer.body, list):
                answer.headers = {"Link": f'<{crm.url}/linked?after=40>; rel="next"'}

    crm.spoil = spoil
    with pytest.raises(RestError, match="gave the same page again"):
        ids(asked(crm, WAYS[way]))
    assert len(crm.sent) == 4


@pytest.mark.parametrize("way", [*CURSORS, *LINKS])
def test_where_it_leads_to_a_page_that_was_read_it_stops_within_two_repeats(crm: Crm, way: str) -> None:
    crm.put(100)
    back = f"{crm.url}/{'linked' if 'header' in way else 'addressed'}?after=20" if way in LINKS else "20"
    before = 2 if way in LINKS else 1

    def spoil(number: int, answer: Answer) -> None:
        if number >= before:
            _next(answer, back)

    crm.spoil = spoil
    with pytest.raises(RestError, match="gave the same page again"):
        ids(asked(crm, WAYS[way]))
    assert len(crm.sent) <= before + 4


def test_a_numbered_list_that_knows_no_end_stops_within_two_repeats(crm: Crm) -> None:
    put = crm.put(20)

    def spoil(_: int, answer: Answer) -> None:
        answer.body["data"]["items"] = crm.deals  # whatever the number

    crm.spoil = spoil
    with pytest.raises(RestError, match=r"gave the same page again \(page=2\)"):
        ids(asked(crm, WAYS["numbered"]))
    assert len(crm.sent) == 3
    # With a number of pages it is the last one that comes again.
    assert ids(asked(crm, WAYS["numbered, with pages"])) == put


@pytest.mark.parametrize("way", CURSORS)
def test_a_list_of_which_each_page_leads_to_a_new_one_is_bounded(crm: Crm, way: str) -> None:
    crm.put(5)

    def spoil(number: int, answer: Answer) -> None:
        answer.body["next"]["after"] = str(1_000_000 + number)
        _flag(answer, True)

    crm.spoil = spoil
    with pytest.raises(RestError, match="1,000 pages in a row held no record"):
        ids(asked(crm, WAYS[way]))
    crm.sent.clear()
    with pytest.raises(RestError, match="more than 10 pages in one read"):
        ids(asked(crm, WAYS[way], max_pages=10))
    assert len(crm.sent) == 10


@pytest.mark.parametrize("way", FLAGS)
def test_a_flag_that_denies_the_rest_hides_nothing(crm: Crm, way: str) -> None:
    put = crm.put(90)
    crm.spoil = lambda _, answer: _flag(answer, False)
    assert ids(asked(crm, WAYS[way])) == put


@pytest.mark.parametrize("way", FLAGS)
@pytest.mark.parametrize("status", [200, 400, 404])
def test_a_flag_that_denies_more_and_names_a_cursor_all_the_same_ends(
    crm: Crm, way: str, status: int
) -> None:
    put = crm.put(20)

    def spoil(number: int, answer: Answer) -> None:
        answer.body["next"]["after"] = "20"
        answer.status = status if number else 200

    crm.spoil = spoil
    assert ids(asked(crm, WAYS[way])) == put


@pytest.mark.parametrize("way", FLAGS)
def test_a_flag_that_promises_more_and_says_not_where_is_loud(crm: Crm, way: str) -> None:
    crm.put(20)
    crm.spoil = lambda _, answer: _flag(answer, True)
    with pytest.raises(RestError, match="says there is more but not where; nothing was landed"):
        ids(asked(crm, WAYS[way]))


@pytest.mark.parametrize(("way", "flag"), zip(FLAGS, ["more", "last"], strict=True))
@pytest.mark.parametrize("said", [None, "true", 1])
def test_a_flag_that_says_neither_is_loud(crm: Crm, way: str, flag: str, said: Any) -> None:
    crm.put(20)
    crm.spoil = lambda _, answer: answer.body.update({flag: said})
    with pytest.raises(RestError, match=f"an answer without {flag}; is this the right API"):
        ids(asked(crm, WAYS[way]))


@pytest.mark.parametrize(
    ("way", "name", "told"),
    [
        ("a total", "total", 0),
        ("a total", "total", 1),
        ("a total", "total", 40),
        ("pages", "pages", 0),
        ("pages", "pages", 3),
    ],
)
def test_a_number_that_is_too_small_hides_nothing(crm: Crm, way: str, name: str, told: int) -> None:
    put = crm.put(90)

    def spoil(_: int, answer: Answer) -> None:
        answer.body["meta"][name] = told

    crm.spoil = spoil
    assert ids(asked(crm, WAYS[f"numbered, with {way}"])) == put


@pytest.mark.parametrize(("way", "told"), [("a total", "91 records"), ("pages", "91 pages")])
def test_a_number_that_is_too_large_is_loud(crm: Crm, way: str, told: str) -> None:
    crm.put(90)

    def spoil(_: int, answer: Answer) -> None:
        answer.body["meta"] = {"total": 91, "pages": 91}

    crm.spoil = spoil
    with pytest.raises(RestError, match=f"says that there are {told}, and gave 90 records on 5 pages"):
        ids(asked(crm, WAYS[f"numbered, with {way}"]))


@pytest.mark.parametrize("count", [1, 25])
def test_deals_that_are_deleted_between_two_numbered_pages_hide_no_other(crm: Crm, count: int) -> None:
    put = crm.put(90)

    def spoil(number: int, _: Answer) -> None:
        if number == 2:
            del crm.deals[:count]

    crm.spoil = spoil
    assert ids(asked(crm, WAYS["numbered, with a total"])) == put


def test_a_numbered_list_that_answers_404_behind_its_end_ends_there(crm: Crm) -> None:
    put = crm.put(40)

    def spoil(number: int, answer: Answer) -> None:
        answer.status = 404 if number == 2 else 200

    crm.spoil = spoil
    for way in ("numbered", "numbered, with a total"):
        crm.sent.clear()
        assert ids(asked(crm, WAYS[way])) == put
    crm.put(40, 40)
    crm.sent.clear()
    with pytest.raises(RestError, match="404"):
        ids(asked(crm, WAYS["numbered, with pages"]))


@pytest.mark.parametrize("way", LINKS)
@pytest.mark.parametrize(
    "target",
    [
        "http://localhost:{port}/api/v2/{list}?after=20",
        "http://127.0.0.1:1/api/v2/{list}?after=20",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "//evil.example/x",
        "http://127.0.0.1:{port}@evil.example/x",
        "http://evil.example@127.0.0.1:{port}/x",
        "https://[::1",
    ],
)
def test_a_next_page_elsewhere_is_refused_and_nothing_is_sent_there(crm: Crm, way: str, target: str) -> None:
    crm.put(50)
    port = crm.url.removesuffix("/api/v2").rpartition(":")[2]
    link = target.format(port=port, list="linked")
    crm.spoil = lambda _, answer: _next(answer, link)
    with pytest.raises(RestError, match=r"names a next page at|whose address is none") as caught:
        ids(asked(crm, WAYS[way]))
    assert isinstance(caught.value, RefusedError) == ("names" in str(caught.value))
    assert len(crm.sent) == 1


@pytest.mark.parametrize("way", LINKS)
@pytest.mark.parametrize("link", ["?after={after}", "/api/v2/{list}?after={after}", "{list}?after={after}"])
def test_a_next_page_is_found_from_where_the_link_stands(crm: Crm, way: str, link: str) -> None:
    put = crm.put(50)
    name = "linked" if "header" in way else "addressed"

    def spoil(number: int, answer: Answer) -> None:
        if number < 2:
            _next(answer, link.format(after=20 * (number + 1), list=name))

    crm.spoil = spoil
    assert ids(asked(crm, _read(WAYS[way], since=None, until=None))) == put


def test_behind_a_proxy_a_next_page_is_asked_where_the_settings_say(crm: Crm) -> None:
    """The service takes itself for one of another scheme, at the port of that."""
    put = crm.put(30)

    def spoil(number: int, answer: Answer) -> None:
        if number == 0:
            _next(answer, "https://127.0.0.1/api/v2/addressed?after=20")

    crm.spoil = spoil
    assert ids(asked(crm, _read(WAYS["linked by the body"], since=None, until=None))) == put


@pytest.mark.parametrize("way", ["linked by the body", "tokens", "search"])
def test_a_next_page_that_is_looked_for_in_the_wrong_place_is_said(crm: Crm, way: str) -> None:
    crm.put(50)
    extract = asked(crm, _read(WAYS[way], next_path="paging.next"))
    assert len(ids(extract)) == 20
    (said,) = extract.warnings
    assert said.startswith(
        "crm.deals: the first page was full and nothing stood at paging.next, so it was taken"
    )
