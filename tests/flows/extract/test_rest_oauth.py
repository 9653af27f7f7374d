"""An API that takes tokens (OAuth 2, client credentials): where one is asked for, and how long it serves."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from flows import prepare, scrubbing
from flows.diagnosis.servers import api
from flows.extract import SourceRefused
from flows.extract.http import AnswerError, RefusedError, RestConnection, RestError
from flows.extract.rest import read
from flows.services import Services
from flows.settings import Settings
from tests.flows.extract.crm import NOW, WAYS, Answer, Crm, ids
from transforms.entities import Api, Rest, SourceEntity

CLIENT = "reader-7:word-canary+/="
API = Api(auth="oauth2", token_url="/oauth/token")


@pytest.fixture(autouse=True)
def _takes_tokens(crm: Crm) -> None:
    crm.client = CLIENT


def _taking(api: Api = API, way: str = "linked by the body") -> SourceEntity:
    entity = WAYS[way]
    assert isinstance(entity.read, Rest)
    return replace(entity, read=replace(entity.read, api=api))


def _read(crm: Crm, api: Api = API, key: str = CLIENT, tries: int = 1) -> list[str]:
    connection = RestConnection(crm.url, key, tries=tries, wait_initial=0.01, wait_jitter=0)
    return ids(read(_taking(api), connection, None, NOW))


def _asked(crm: Crm) -> list[str]:
    """What it was asked for, in order: T a token, p a page."""
    return ["T" if one.path == "/oauth/token" else "p" for one in crm.sent]


@pytest.mark.parametrize("client", ["header", "body"])
@pytest.mark.parametrize("place", ["/oauth/token", "{host}/oauth/token"])
def test_a_client_s_token_is_sent_with_each_page_and_its_secret_where_tokens_are_alone(
    crm: Crm, client: Any, place: str
) -> None:
    put = crm.put(30)
    url = place.format(host=crm.url.removesuffix("/api/v2"))
    said = {"scope": "deals.read", "audience": "https://crm.example/"}
    assert _read(crm, Api(auth="oauth2", token_url=url, token_parameters=said, token_client=client)) == put
    first, *pages = crm.sent
    user, _, secret = CLIENT.partition(":")
    own = {"client_id": user, "client_secret": secret} if client == "body" else {}
    assert (first.method, first.path) == ("POST", "/oauth/token")
    assert first.body == {"grant_type": "client_credentials", **said, **own}
    assert first.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert [one.headers["Authorization"] for one in pages] == [f"Bearer {crm.tokens[0]}"] * 2
    assert secret not in str(pages)


def test_one_token_serves_every_list_until_its_time_is_over(crm: Crm) -> None:
    put = crm.put(30)
    crm.holds = 1
    assert _read(crm) == _read(crm) == put
    assert _asked(crm) == ["T", "p", "p", "p", "p"]
    time.sleep(0.95)
    assert _read(crm) == put
    assert _asked(crm) == ["T", "p", "p", "p", "p", "T", "p", "p"]


@pytest.mark.parametrize("holds", [None, "soon", "3600"])
def test_a_token_of_which_no_time_is_told_serves_until_it_is_refused(crm: Crm, holds: Any) -> None:
    put = crm.put(30)
    crm.holds = holds
    assert _read(crm) == _read(crm) == put
    crm.tokens.clear()
    assert _read(crm) == put
    assert _asked(crm) == ["T", "p", "p", "p", "p", "p", "T", "p", "p"]


def test_a_token_that_is_refused_in_the_midst_of_a_list_costs_no_object(crm: Crm) -> None:
    put = crm.put(50)
    crm.spoil = lambda number, _: crm.tokens.clear() if number == 1 else None
    assert _read(crm) == put
    assert _asked(crm) == ["T", "p", "p", "T", "p", "p"]


def test_a_new_token_that_is_refused_too_ends_the_read_with_what_to_do(crm: Crm) -> None:
    crm.put(30)
    crm.spoil = lambda *_: crm.tokens.clear()
    with pytest.raises(AnswerError) as caught:
        _read(crm, tries=3)
    assert _asked(crm) == ["T", "p", "T", "p"]
    assert str(caught.value).startswith(f"crm.deals: {crm.url} refused the token that http://127.0.0.1:")
    assert "/oauth/token gave (401); see there what the client of ANALYTICS_CRM_KEY may read" in str(
        caught.value
    )


def test_lists_that_are_read_at_once_ask_for_one_token(crm: Crm) -> None:
    put = crm.put(30)
    at_once = threading.Barrier(4)

    def one(_: int) -> list[str]:
        at_once.wait(10)
        return _read(crm)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [put] * 4
    assert _asked(crm).count("T") == 1


def test_a_place_of_tokens_that_fails_for_a_while_is_asked_again(crm: Crm) -> None:
    put = crm.put(30)

    def spoil(number: int, answer: Answer) -> None:
        if number < 2:
            answer.status, answer.body = (503, {}) if number else (200, b'{"access_')

    crm.spoil = spoil
    assert _read(crm, tries=3) == put
    assert _asked(crm) == ["T", "T", "T", "p", "p"]


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (Answer({"error": "invalid_client", "error_description": "No such client"}, 401), "No such client"),
        (Answer({"error": "invalid_scope"}, 400), "answered 400 (invalid_scope)"),
        (Answer({"error": "bad_verification_code"}), "answered without a token (bad_verification_code)"),
        (Answer({"access_token": "a b\r\nX: c"}), "answered without a token"),
        (Answer([]), "answered without a token"),
        (Answer({"error": f"what is {CLIENT}, {CLIENT.partition(':')[2]}?"}, 400), "what is ***, ***?"),
    ],
)
def test_where_no_token_is_given_it_is_said_why_and_what_to_correct(
    crm: Crm, answer: Answer, seen: str
) -> None:
    def spoil(_: int, given: Answer) -> None:
        given.body, given.status = answer.body, answer.status

    crm.spoil = spoil
    with pytest.raises(RefusedError) as caught:
        _read(crm, tries=3)
    told = str(caught.value)
    assert _asked(crm) == ["T"]
    assert seen in told
    assert "/oauth/token" in told
    assert "check ANALYTICS_CRM_KEY (client_id:client_secret), and `token_url`, `token_client`" in told
    assert "canary" not in told


def test_a_secret_does_not_follow_a_place_of_tokens_that_sends_it_elsewhere(crm: Crm) -> None:
    def spoil(_: int, answer: Answer) -> None:
        answer.status, answer.headers = 307, {"Location": f"{crm.url}/deals"}

    crm.spoil = spoil
    with pytest.raises(RefusedError, match="If the API has moved, change `token_url` in transforms/sources"):
        _read(crm)
    assert _asked(crm) == ["T"]


@pytest.mark.parametrize(
    ("key", "place", "said"),
    [
        ("alone", "/oauth/token", "ANALYTICS_CRM_KEY is no client's id and secret, for which its API gives"),
        (":canary", "/oauth/token", "write them with a colon between them, client_id:client_secret"),
        (CLIENT, "http://login.example.com/token", "would carry the key in the clear; set `token_url` in"),
        (CLIENT, "https://:x/token", "`token_url` in transforms/sources is no address of an API"),
    ],
)
def test_a_client_that_can_not_ask_safely_ends_a_run_before_it_begins(
    crm: Crm, key: str, place: str, said: str
) -> None:
    entity = _taking(Api(auth="oauth2", token_url=place))
    settings = Settings(_env_file=None, crm_url=crm.url, crm_key=key)  # type: ignore[call-arg]
    with pytest.raises(SourceRefused) as caught:
        prepare.sources(Services(settings), [entity])
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)
    assert caught.value.exit_code == 2
    with pytest.raises(SourceRefused):
        ids(read(entity, RestConnection(crm.url, key), None, NOW))
    assert crm.sent == []


def test_the_doctor_asks_for_a_token_and_a_page(crm: Crm) -> None:
    crm.put(3)
    settings = Settings(_env_file=None, crm_url=crm.url, crm_key=CLIENT)  # type: ignore[call-arg]
    assert [found.well for found in api(settings, _taking())] == [True, True]
    assert _asked(crm) == ["T", "p"]
    wrong = Settings(_env_file=None, crm_url=crm.url, crm_key="reader-7:other")  # type: ignore[call-arg]
    (found,) = api(wrong, _taking())
    assert "answered 401 (who is ***?), where a token was asked for" in found.seen
    assert "Correct ANALYTICS_CRM_KEY" in found.advice


@pytest.mark.parametrize("fault", ["refused", "said", "broken", "link"])
def test_no_message_and_no_log_holds_a_token_or_a_client_s_secret(
    crm: Crm, fault: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "_settings", None)
    monkeypatch.setattr(logging, "_logRecordFactory", scrubbing._record)
    scrubbing.watch(Settings(_env_file=None, crm_url=crm.url, crm_key=CLIENT))  # type: ignore[call-arg]
    caplog.set_level(logging.DEBUG)
    crm.put(60)

    def spoil(number: int, answer: Answer) -> None:
        if not number:
            return
        match fault:
            case "refused":
                answer.status = 403
            case "said":
                answer.status, answer.body = 422, {"message": f"what is {crm.tokens[0]}?"}
            case "broken":
                answer.body = f'{{"items": [], "{crm.tokens[0]}": }}'.encode()
            case "link":
                answer.body["@next.link"] = f"https://{crm.tokens[0]}.example/"

    crm.spoil = spoil
    with pytest.raises(RestError) as caught:
        _read(crm, tries=2)
    told = f"{caught.value} {caught.value!r}\n{caplog.text}"
    assert "oauth/token" in told
    assert "canary" not in told
