"""A service on a bad day, one fault after the other: the same rows or a loud failure, never less."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from flows.errors import FlowsError
from flows.extract.http import RestConnection, RestError
from flows.extract.rest import read
from flows.sandbox import processes
from flows.sandbox.apis import STRIPE_KEY, sendgrid_objects, stripe_objects
from transforms.sources import sendgrid, stripe

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
SECOND = int(NOW.timestamp())
ENTITIES = {entity.table: entity for entity in stripe.ENTITIES + sendgrid.ENTITIES}
CHARGES = ENTITIES["raw_stripe__charges"]
BOUNCES = ENTITIES["raw_sendgrid__bounces"]
EXPECTED = [f"ch_{number:05d}" for number in range(250)]


@pytest.fixture(autouse=True)
def _charges(apis: Any) -> None:
    apis.store.put(
        "charges",
        [
            stripe_objects.charge(id=identity, amount=100, currency="eur", created=SECOND - 60 * number - 60)
            for number, identity in enumerate(EXPECTED)
        ],
    )


def charges(apis: Any, **settings: Any) -> list[str]:
    """Ids of the charges that a read gives."""
    extract = read(CHARGES, apis.connection(**settings), None, NOW)
    return [identity for batch in extract.batches for identity in batch.column("id").to_pylist()]


def failure(apis: Any, **settings: Any) -> str:
    """The message a read ends with; every one is a single line without the key."""
    with pytest.raises(FlowsError) as caught:
        charges(apis, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert STRIPE_KEY not in message
    assert message.startswith("stripe.charges: ")
    return message


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_error_is_asked_again(apis: Any, status: int) -> None:
    apis.fault("status", status=status, count=2, skip=1)

    assert charges(apis) == EXPECTED


@pytest.mark.parametrize("status", [429, 500])
def test_three_errors_in_a_row_end_the_read_with_one_line(apis: Any, status: int) -> None:
    apis.fault("status", status=status, count=3, skip=1)

    assert f"answered {status} (fault). Tried 3 times" in failure(apis)


def test_retry_after_is_honoured(apis: Any) -> None:
    apis.fault("status", status=429, retry_after=1, skip=1)
    started = time.monotonic()

    assert charges(apis) == EXPECTED
    assert time.monotonic() - started >= 1


def test_a_retry_after_of_an_hour_is_told_instead_of_slept(apis: Any) -> None:
    apis.fault("status", status=429, retry_after=3600)

    assert "asks to come back in 3600 s" in failure(apis)


def test_the_rate_limit_of_the_headers_is_never_run_into(apis: Any) -> None:
    """Three requests a second are allowed; the answers say so, and the client waits instead of being
    refused.
    """
    apis.store.put(
        "bounces",
        [
            sendgrid_objects.bounce(
                email=f"{number:05d}@example.com", created=SECOND - number - 1, reason="550"
            )
            for number in range(2400)
        ],
    )
    apis.limit("sendgrid", 3, 1)
    before = apis.requests("/v3/suppression/bounces")

    extract = read(BOUNCES, apis.connection("sendgrid", tries=1), None, NOW)

    assert sum(batch.num_rows for batch in extract.batches) == 2400
    assert apis.requests("/v3/suppression/bounces") - before == 6


def test_a_connection_that_is_reset_is_opened_again(apis: Any) -> None:
    apis.fault("reset", count=2, skip=1)

    assert charges(apis) == EXPECTED


def test_a_service_that_always_resets_is_named(apis: Any) -> None:
    apis.fault("reset", count=None)

    assert "broke the connection" in failure(apis)


def test_an_answer_that_takes_too_long_is_asked_again(apis: Any) -> None:
    apis.fault("timeout", seconds=3, skip=1)

    assert charges(apis, timeout=0.5) == EXPECTED


def test_a_service_that_never_answers_in_time_is_named(apis: Any) -> None:
    apis.fault("timeout", seconds=3, count=3)

    assert "did not answer within 0.2 s" in failure(apis, timeout=0.2)


@pytest.mark.parametrize("kind", ["truncated", "cut_json"])
def test_a_body_that_ends_early_is_asked_for_again_and_then_loud(apis: Any, kind: str) -> None:
    apis.fault(kind, count=2, skip=1)
    assert charges(apis) == EXPECTED

    apis.fault(kind, count=None, skip=1)
    message = failure(apis)
    assert "broke the connection" in message or "sent a broken answer" in message


def test_a_cursor_that_repeats_once_is_overcome(apis: Any) -> None:
    apis.fault("repeated_cursor", skip=1)

    assert charges(apis) == EXPECTED


def test_a_cursor_that_keeps_repeating_stops_the_read_within_two_repeats(apis: Any) -> None:
    apis.fault("repeated_cursor", skip=1, count=None)
    before = apis.requests("/v1/charges")

    assert "gave the same page again" in failure(apis)
    assert apis.requests("/v1/charges") - before == 3


def test_an_offset_that_keeps_repeating_stops_the_read_within_two_repeats(apis: Any) -> None:
    apis.store.put(
        "bounces",
        [
            sendgrid_objects.bounce(email=f"{n}@example.com", created=SECOND - n - 1, reason="")
            for n in range(900)
        ],
    )
    apis.fault("repeated_cursor", path="/v3/suppression", skip=1, count=None)
    before = apis.requests("/v3/suppression/bounces")

    with pytest.raises(RestError, match=r"gave the same page again \(offset=499\)"):
        list(read(BOUNCES, apis.connection("sendgrid"), None, NOW).batches)
    assert apis.requests("/v3/suppression/bounces") - before == 3


@pytest.mark.parametrize("page", [0, 1, 2])
def test_has_more_that_denies_the_rest_hides_nothing(apis: Any, page: int) -> None:
    apis.fault("lying_has_more", skip=page)

    assert charges(apis) == EXPECTED


def test_has_more_that_promises_for_ever_is_loud(apis: Any) -> None:
    apis.fault("lying_has_more", skip=3, count=None)

    assert "says there is more but gave no object" in failure(apis)


def test_a_gzip_bomb_is_cut_off_within_the_cap(apis: Any) -> None:
    apis.fault("gzip_bomb", bytes=2**27)

    assert "is larger than 64 MiB" in failure(apis)


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Another host that notes whatever reaches it."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://localhost:{server.server_port}", seen
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


@pytest.mark.parametrize(
    "target",
    ["{other}/v1/charges", "http://169.254.169.254/latest", "file:///etc/passwd", "//{host}/v1/charges"],
)
def test_a_redirect_is_refused_and_nothing_is_sent_there(
    apis: Any, elsewhere: tuple[str, list[str]], target: str
) -> None:
    other, seen = elsewhere
    location = target.format(other=other, host=other.removeprefix("http://"))
    apis.fault("redirect", location=location, skip=1)

    assert "redirects to" in failure(apis)
    assert seen == []


def test_a_link_to_a_next_page_elsewhere_is_not_followed(apis: Any, elsewhere: tuple[str, list[str]]) -> None:
    other, seen = elsewhere
    apis.fault("next_link", location=f"{other}/v1/charges", count=None)

    assert charges(apis) == EXPECTED
    assert seen == []


def test_a_wrong_key_is_named_by_its_setting_and_not_tried_again(apis: Any) -> None:
    before = apis.requests("/v1/charges")

    message = failure(apis, key="sk_live_canary_5271")

    assert "refused the key (401); check ANALYTICS_STRIPE_KEY" in message
    assert "canary" not in message
    assert "5271" not in message
    assert apis.requests("/v1/charges") - before == 1


def test_a_list_that_a_good_key_may_not_read_is_told_with_the_list_and_the_word_of_the_service(
    apis: Any,
) -> None:
    apis.fault("status", status=403)

    message = failure(apis)

    assert re.search(r"/v1/charges answered 403 \(fault\); let the key of ANALYTICS_STRIPE_KEY read", message)


def test_a_key_that_the_service_repeats_is_scrubbed_from_the_message(apis: Any) -> None:
    answer = json.dumps({"error": {"message": f"bad request with {STRIPE_KEY}\nand a second line"}}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(400)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Stay quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        message = failure(apis, base_url=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
    assert "answered 400 (bad request with *** and a second line)" in message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://api.example.com", "would carry the key in the clear"),
        ("http://10.0.0.1:8000", "would carry the key in the clear"),
        ("file:///etc/passwd", "is no address of an API"),
        ("https://user:secret@api.example.com", "is no address of an API"),
        ("api.example.com", "is no address of an API"),
        ("https://api.example.com:port", "is no address of an API"),
        ("https://[::1", "is no address of an API"),
    ],
)
def test_an_address_the_key_must_not_go_to_is_refused_before_anything_is_sent(
    apis: Any, url: str, words: str
) -> None:
    message = failure(apis, base_url=url)

    assert words in message
    assert "secret" not in message


def test_a_service_that_is_not_there_is_named(apis: Any) -> None:
    port = processes.free_port()

    assert f"http://127.0.0.1:{port}/v1/charges can't be reached" in failure(
        apis, base_url=f"http://127.0.0.1:{port}"
    )


def test_the_key_does_not_show_in_the_settings_of_a_connection() -> None:
    assert "canary" not in repr(RestConnection("https://api.example.com", "canary"))


@pytest.mark.parametrize("kind", ["status", "reset", "truncated", "cut_json"])
def test_thirty_percent_faults_give_the_same_rows_or_a_loud_failure(apis: Any, kind: str) -> None:
    equal = 0
    for seed in range(6):
        apis.control.delete("/_control/faults")
        apis.fault(kind, probability=0.3, count=None, seed=seed)
        with suppress(RestError):
            assert charges(apis) == EXPECTED
            equal += 1
    assert equal >= 3
