"""The simulated Stripe and SendGrid answer as the real ones do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.sandbox.apis import SENDGRID_KEY, STRIPE_KEY, sendgrid_objects, stripe_objects
from flows.sandbox.apis.actions import create_charge, refund_charge
from flows.sandbox.apis.store import STRIPE_KINDS, Store

FIXTURES = Path(__file__).parents[4] / "shared" / "data" / "stripe" / "fixtures3.json"
START = 1_761_000_000


@pytest.fixture
def stripe(apis: Any) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {STRIPE_KEY}"}
    with httpx.Client(base_url=apis.url, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def sendgrid(apis: Any) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {SENDGRID_KEY}"}
    with httpx.Client(base_url=apis.url, headers=headers, trust_env=False) as client:
        yield client


def charge(number: int) -> dict[str, Any]:
    return stripe_objects.charge(id=f"ch_{number:03d}", amount=1000, currency="EUR", created=START + number)


def numbers(answer: httpx.Response) -> list[int]:
    return [int(item["id"].removeprefix("ch_")) for item in answer.json()["data"]]


def test_stripe_lists_newest_first_and_goes_on_after_a_cursor(apis: Any, stripe: httpx.Client) -> None:
    apis.store.put("charges", [charge(number) for number in range(5)])

    first = stripe.get("/v1/charges", params={"limit": 2})
    second = stripe.get("/v1/charges", params={"limit": 2, "starting_after": "ch_003"})
    last = stripe.get("/v1/charges", params={"limit": 2, "starting_after": "ch_001"})
    back = stripe.get("/v1/charges", params={"limit": 2, "ending_before": "ch_001"})

    assert [numbers(page) for page in (first, second, last, back)] == [[4, 3], [2, 1], [0], [3, 2]]
    assert [page.json()["has_more"] for page in (first, second, last, back)] == [True, True, False, True]
    assert first.json()["object"] == "list"
    assert first.json()["url"] == "/v1/charges"


def test_objects_of_the_same_second_keep_their_order_over_pages(apis: Any, stripe: httpx.Client) -> None:
    apis.store.put("charges", [{**charge(number), "created": START} for number in range(5)])

    first = stripe.get("/v1/charges", params={"limit": 3})
    second = stripe.get("/v1/charges", params={"limit": 3, "starting_after": "ch_002"})

    assert numbers(first) + numbers(second) == [4, 3, 2, 1, 0]


def test_stripe_filters_by_created_with_all_four_comparisons(apis: Any, stripe: httpx.Client) -> None:
    apis.store.put("charges", [charge(number) for number in range(5)])
    half_open = stripe.get("/v1/charges", params={"created[gte]": START + 1, "created[lt]": START + 3})
    closed = stripe.get("/v1/charges", params={"created[gt]": START + 1, "created[lte]": START + 3})
    exact = stripe.get("/v1/charges", params={"created": START + 4})

    assert [numbers(page) for page in (half_open, closed, exact)] == [[2, 1], [3, 2], [4]]


@pytest.mark.parametrize(
    ("parameters", "message", "param"),
    [
        ({"foo": "1"}, "Received unknown parameter: foo", "foo"),
        ({"limit": "101"}, "This value must be less than or equal to 100.", "limit"),
        ({"limit": "0"}, "This value must be greater than or equal to 1.", "limit"),
        ({"limit": "x"}, "Invalid integer: x", "limit"),
        ({"created[gte]": "monday"}, "Invalid integer: monday", "created[gte]"),
        ({"starting_after": "ch_no"}, "No such charge: 'ch_no'", "starting_after"),
    ],
)
def test_stripe_says_400_in_its_own_shape(
    stripe: httpx.Client, parameters: dict[str, str], message: str, param: str
) -> None:
    answer = stripe.get("/v1/charges", params=parameters)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["message"], error["param"], error["type"]) == (message, param, "invalid_request_error")


def test_both_refuse_a_missing_and_a_wrong_key(apis: Any) -> None:
    for path in ("/v1/charges", "/v3/stats?start_date=2025-10-01"):
        for headers in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "Basic bm9wZTo="}):
            answer = httpx.get(apis.url + path, headers=headers, trust_env=False)
            assert answer.status_code == 401
            assert {"/v1": "error", "/v3": "errors"}[path[:3]] in answer.json()


def test_too_many_requests_are_refused_with_the_headers_that_say_when(
    apis: Any, sendgrid: httpx.Client
) -> None:
    # One window that outlasts every test.
    apis.limit("sendgrid", 2, 10**9)

    answers = [sendgrid.get("/v3/suppression/blocks") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"2"}
    assert {answer.headers["X-RateLimit-Reset"] for answer in answers} == {str(2 * 10**9)}
    assert int(answers[2].headers["Retry-After"]) > 0
    assert answers[2].json() == {"errors": [{"message": "too many requests"}]}


def test_a_refund_changes_every_list_it_touches(apis: Any, stripe: httpx.Client) -> None:
    create_charge(apis.store, charge(1))

    refund_charge(apis.store, "ch_001", 400, START + 100)

    listed = {kind: stripe.get(f"/v1/{kind}").json()["data"] for kind in STRIPE_KINDS}
    assert listed["charges"][0]["amount_refunded"] == 400
    assert listed["charges"][0]["refunded"] is False
    assert [item["amount"] for item in listed["refunds"]] == [400]
    assert [(item["amount"], item["fee"], item["net"]) for item in listed["balance_transactions"]] == [
        (-400, 0, -400),
        (1000, 0, 1000),
    ]
    assert [item["type"] for item in listed["events"]] == [
        "refund.created",
        "charge.refunded",
        "charge.succeeded",
    ]
    with pytest.raises(ValueError, match="600 are left"):
        refund_charge(apis.store, "ch_001", 601, START + 101)


def test_sendgrid_pages_by_offset_and_takes_both_ends_of_a_range_in(
    apis: Any, sendgrid: httpx.Client
) -> None:
    apis.store.put(
        "unsubscribes",
        [
            sendgrid_objects.unsubscribe(email=f"{number}@x.org", created=START + number)
            for number in range(5)
        ],
    )

    page = sendgrid.get("/v3/suppression/unsubscribes", params={"limit": 2, "offset": 1}).json()
    closed = sendgrid.get(
        "/v3/suppression/unsubscribes", params={"start_time": START + 1, "end_time": START + 2}
    ).json()

    assert [item["email"] for item in page] == ["3@x.org", "2@x.org"]
    assert [item["email"] for item in closed] == ["2@x.org", "1@x.org"]
    assert sendgrid.get("/v3/suppression/unsubscribes", params={"limit": 501}).status_code == 400


def test_statistics_have_a_record_for_every_period_and_are_summed(apis: Any, sendgrid: httpx.Client) -> None:
    apis.store.put(
        "stats", [sendgrid_objects.stats(date=f"2025-10-{day}", requests=day) for day in (13, 15, 20)]
    )
    dates = {"start_date": "2025-10-12", "end_date": "2025-10-20"}

    by_day = sendgrid.get("/v3/stats", params=dates).json()
    by_week = sendgrid.get("/v3/stats", params={**dates, "aggregated_by": "week"}).json()

    assert [item["date"] for item in by_day] == [f"2025-10-{day}" for day in range(12, 21)]
    assert [item["stats"][0]["metrics"]["requests"] for item in by_day] == [0, 13, 0, 15, 0, 0, 0, 0, 20]
    assert [(item["date"], item["stats"][0]["metrics"]["requests"]) for item in by_week] == [
        ("2025-10-06", 0),
        ("2025-10-13", 28),
        ("2025-10-20", 20),
    ]
    assert sendgrid.get("/v3/stats").status_code == 400


def test_messages_are_found_by_their_query_language_and_not_paged(apis: Any, sendgrid: httpx.Client) -> None:
    apis.store.put(
        "messages",
        [
            sendgrid_objects.message(
                msg_id=f"m{minute}",
                to_email=f"{minute % 2}@x.org",
                subject="Hi",
                last_event_time=f"2025-10-20T10:0{minute}:00Z",
            )
            for minute in range(5)
        ],
    )

    def found(query: str, **parameters: Any) -> list[str]:
        answer = sendgrid.get("/v3/messages", params={"query": query, **parameters})
        assert answer.status_code == 200, answer.text
        return [item["msg_id"] for item in answer.json()["messages"]]

    between = 'last_event_time BETWEEN TIMESTAMP "2025-10-20T10:01:00Z" AND TIMESTAMP "2025-10-20T10:03:00Z"'
    assert found(between) == ["m3", "m2", "m1"]
    assert found(between, limit=2) == ["m3", "m2"]
    assert found(f'{between} AND to_email="1@x.org"') == ["m3", "m1"]
    assert found('last_event_time > TIMESTAMP "2025-10-20T10:03:00Z"') == ["m4"]
    for parameters in ({}, {"query": "colour=1"}, {"query": between, "limit": "1001"}):
        assert sendgrid.get("/v3/messages", params=parameters).status_code == 400


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("charge", charge(1)),
        ("refund", stripe_objects.refund(id="re_1", charge="ch_1", amount=1, currency="eur", created=1)),
        ("customer", stripe_objects.customer(id="cus_1", created=1)),
        (
            "balance_transaction",
            stripe_objects.balance_transaction(
                id="txn_1", amount=1, currency="eur", created=1, source="ch_1"
            ),
        ),
        ("dispute", stripe_objects.dispute(id="dp_1", charge="ch_1", amount=1, currency="eur", created=1)),
        ("payout", stripe_objects.payout(id="po_1", amount=1, currency="eur", created=1, arrival_date=2)),
        ("balance", stripe_objects.balance(available={"EUR": 1})),
        ("event", stripe_objects.event(id="evt_1", type="charge.succeeded", created=1, object=charge(1))),
    ],
)
def test_objects_have_the_fields_of_the_real_ones_and_no_others(kind: str, item: dict[str, Any]) -> None:
    if not FIXTURES.exists():
        pytest.skip("Stripe's fixtures are not beside the project")
    real = json.loads(FIXTURES.read_text())["resources"][kind]

    assert set(item) <= set(real)
    # What only an expanded or newer object has.
    missing = set(real) - set(item) - {"refunds", "source", "customer", "customer_account", "payment_method"}
    assert missing == set()
    for name, value in item.items():
        if value is not None and real[name] is not None and not isinstance(value, str):
            assert isinstance(value, type(real[name])), name


def test_a_world_of_twenty_thousand_charges_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    charges = [
        stripe_objects.charge(id=f"ch_{n}", amount=n, currency="eur", created=START + n)
        for n in range(20_000)
    ]

    store.put("charges", charges)
    store.put(
        "balance_transactions",
        (
            stripe_objects.balance_transaction(
                id=f"txn_{n}", amount=n, currency="eur", created=START + n, source=f"ch_{n}"
            )
            for n in range(20_000)
        ),
    )
    store.put(
        "events",
        (
            stripe_objects.event(id=f"evt_{n}", type="charge.succeeded", created=START + n, object=item)
            for n, item in enumerate(charges)
        ),
    )

    assert [store.count(kind) for kind in ("charges", "balance_transactions", "events")] == [20_000] * 3
    store.close()


def test_what_is_written_together_is_seen_together(tmp_path: Path) -> None:
    writer, reader = Store(tmp_path), Store(tmp_path)

    def half() -> None:
        with writer.transaction():
            writer.put("charges", [charge(1)])
            assert reader.count("charges") == 0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert reader.count("charges") == 0
    with writer.transaction():
        writer.put("charges", [charge(1)])
        writer.change("charges", "ch_001", {"disputed": True})
    assert (reader.get("charges", "ch_001") or {})["disputed"] is True
    writer.close()
    reader.close()


def test_control_names_what_it_does_not_know(apis: Any) -> None:
    fault = apis.control.post("/_control/faults", json={"kind": "earthquake"})
    refund = apis.control.post("/_control/refunds", json={"charge": "ch_no", "amount": 1, "created": 1})
    put = apis.control.post("/_control/objects/invoices", json=[])

    assert [answer.status_code for answer in (fault, refund, put)] == [400, 400, 400]
    assert "'earthquake' is no fault" in fault.json()["error"]
    assert apis.control.get("/healthz").json() == {"status": "ok"}
