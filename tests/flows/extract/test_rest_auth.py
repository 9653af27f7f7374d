"""How a key gets to an API, as its declaration says, and nowhere else."""

from __future__ import annotations

import base64
import logging
from dataclasses import replace
from typing import Any

import pytest

from flows import scrubbing
from flows.extract.http import AnswerError, RestConnection, RestError
from flows.extract.rest import read
from flows.settings import Settings
from tests.flows.extract.crm import KEY, NOW, WAYS, Answer, Crm, ids
from transforms.entities import Api, Rest, SourceEntity

BASIC = "reader:pass:word-canary"


def _taking(api: Api, way: str = "linked by the body") -> SourceEntity:
    entity = WAYS[way]
    assert isinstance(entity.read, Rest)
    return replace(entity, read=replace(entity.read, api=api))


def _read(crm: Crm, api: Api, key: str, way: str = "linked by the body") -> list[str]:
    connection = RestConnection(crm.url, key, tries=1)
    return ids(read(_taking(api, way), connection, None, NOW))


def _basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("api", "key", "header", "value"),
    [
        (Api(), KEY, "Authorization", f"Bearer {KEY}"),
        (Api(auth="http_basic"), BASIC, "Authorization", _basic(BASIC)),
        (Api(auth="http_basic"), "user-alone", "Authorization", _basic("user-alone:")),
        (Api(auth="api_key", name="X-Access-Token"), KEY, "X-Access-Token", KEY),
        (Api(auth="api_key", prefix="Token token="), KEY, "Authorization", f"Token token={KEY}"),
    ],
)
def test_a_key_stands_in_the_header_that_the_api_takes_it_in(
    crm: Crm, api: Api, key: str, header: str, value: str
) -> None:
    put = crm.put(30)
    assert _read(crm, api, key) == put
    assert [one.headers.get(header) for one in crm.sent] == [value, value]
    others = {name: found for one in crm.sent for name, found in one.headers.items() if name != header}
    assert "Authorization" not in others
    assert key not in str(others)
    assert all(key not in str(one.query) for one in crm.sent)


@pytest.mark.parametrize(
    "way", ["linked by the body", "linked by the header", "tokens", "search", "numbered"]
)
def test_a_key_stands_once_in_the_query_of_each_page(crm: Crm, way: str) -> None:
    put = crm.put(30)
    assert _read(crm, Api(auth="api_key", name="api_key", location="query"), KEY, way) == put
    assert len(crm.sent) >= 2
    # The links of the service hold it, too: what they were asked with.
    assert all(one.raw.count(KEY) == 1 for one in crm.sent)
    assert all(one.query["api_key"] == KEY for one in crm.sent)
    assert all("Authorization" not in one.headers for one in crm.sent)


def test_an_api_without_keys_gets_none_and_fixed_headers_are_sent_with_each_page(crm: Crm) -> None:
    put = crm.put(30)
    fixed = {"accept": "application/vnd.crm+json", "X-Version": "2022-11-28"}
    assert _read(crm, Api(auth="none", headers=fixed), "") == put
    for one in crm.sent:
        assert "Authorization" not in one.headers
        assert (one.headers["Accept"], one.headers["X-Version"]) == (fixed["accept"], "2022-11-28")


@pytest.mark.parametrize(
    ("api", "key"),
    [
        (Api(), KEY),
        (Api(auth="http_basic"), BASIC),
        (Api(auth="api_key", name="api_key", location="query"), KEY),
    ],
)
@pytest.mark.parametrize(
    "fault", ["refused", "said", "code", "broken", "again", "behind", "elsewhere", "away"]
)
def test_no_message_and_no_log_holds_a_key_in_any_form(
    crm: Crm,
    api: Api,
    key: str,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scrubbing, "_settings", None)
    monkeypatch.setattr(logging, "_logRecordFactory", scrubbing._record)
    given: dict[str, Any] = {"crm_key": key, "crm_url": crm.url}
    scrubbing.watch(Settings(_env_file=None, **given))
    caplog.set_level(logging.DEBUG)
    crm.put(60)
    sent = _basic(key if ":" in key else f"{key}:").removeprefix("Basic ")

    def spoil(number: int, answer: Answer) -> None:
        match fault:
            case "behind" if number:
                answer.status = 500
            case "behind":
                answer.body["@next.link"] += f"&api_key={key}"
            case "refused":
                answer.status = 401
            case "said":
                answer.status, answer.body = 422, {"message": f"what is {key} or {sent}?"}
            case "code":
                answer.status, answer.body = 429, {"detail": f"slow down, {key}"}
            case "broken":
                answer.body = f'{{"items": [], "{key}": }}'.encode()
            case "again":
                answer.body["@next.link"] = f"{crm.url}/addressed?api_key={key}"
            case "elsewhere":
                answer.body["@next.link"] = f"https://{key.replace(':', '.').replace('_', '-')}.example/{key}"

    crm.spoil = spoil
    url = crm.url.replace("127.0.0.1", "127.0.0.2") if fault == "away" else crm.url
    with pytest.raises(RestError) as caught:
        ids(read(_taking(api), RestConnection(url, key, tries=2, wait_initial=0.01), None, NOW))
    told = f"{caught.value} {caught.value!r}\n{caplog.text}"
    assert sent not in told
    assert key not in told
    assert "pass:word" not in told
    assert ("canary" in told) == (fault == "elsewhere")


@pytest.mark.parametrize("status", [403, 429])
def test_a_limit_that_is_told_by_403_is_no_wrong_key(crm: Crm, status: int) -> None:
    put = crm.put(30)

    def spoil(number: int, answer: Answer) -> None:
        if number == 1:
            answer.status, answer.headers = status, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0"}

    crm.spoil = spoil
    connection = RestConnection(crm.url, KEY, tries=2, wait_initial=0.01)
    assert ids(read(WAYS["tokens"], connection, None, NOW)) == put

    def spoil_for_long(_: int, answer: Answer) -> None:
        answer.status, answer.headers = status, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "3000"}

    crm.spoil = spoil_for_long
    with pytest.raises(RestError, match="asks to come back in 3000 s; run again then") as caught:
        ids(read(WAYS["tokens"], connection, None, NOW))
    assert not isinstance(caught.value, AnswerError)


@pytest.mark.parametrize("word", ["RateLimit", "X-RateLimit"])
def test_where_no_request_is_left_the_next_waits_for_the_reset(
    crm: Crm, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = crm.put(30)
    slept: list[float] = []
    monkeypatch.setattr("flows.extract.http.time.sleep", slept.append)
    crm.spoil = lambda number, answer: answer.headers.update(
        {f"{word}-Remaining": "0" if number == 0 else "7", f"{word}-Reset": "60"}
    )
    assert ids(read(WAYS["tokens"], RestConnection(crm.url, KEY), None, NOW)) == put
    assert [round(seconds) for seconds in slept] == [60]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"message": "Bad thing"}, "Bad thing"),
        ({"detail": "Bad thing"}, "Bad thing"),
        ({"error": "Bad thing"}, "Bad thing"),
        ({"error": "bad", "error_description": "Bad thing"}, "Bad thing"),
        ({"errors": [{"title": "Bad thing"}]}, "Bad thing"),
        ({"error": {"message": "Bad thing", "code": "bad"}}, "Bad thing"),
    ],
)
def test_what_an_api_says_of_an_error_is_told(crm: Crm, body: dict[str, Any], said: str) -> None:
    def spoil(_: int, answer: Answer) -> None:
        answer.status, answer.body = 422, body

    crm.spoil = spoil
    with pytest.raises(AnswerError, match=rf"answered 422 \({said}\)"):
        ids(read(WAYS["tokens"], RestConnection(crm.url, KEY), None, NOW))


@pytest.mark.parametrize("url", ["https://api.example.com/v2?key=canary", "https://api.example.com/v2#x"])
def test_an_address_with_something_behind_the_path_is_refused(url: str) -> None:
    with pytest.raises(RestError, match="ANALYTICS_CRM_URL is no address of an API") as caught:
        ids(read(WAYS["tokens"], RestConnection(url, KEY), None, NOW))
    assert "canary" not in str(caught.value)
