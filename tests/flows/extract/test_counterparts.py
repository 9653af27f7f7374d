"""Our clients and simulators held to what others wrote: stripe-mock, SendGrid's specification in Prism."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from flows.extract.http import RestConnection, RestError
from flows.extract.rest import read
from flows.sandbox import processes
from flows.sandbox.apis import STRIPE_KEY, sendgrid_objects, stripe_objects
from flows.sandbox.apis.store import STRIPE_KINDS
from tests.flows.extract import counterparts
from tests.house import House
from transforms.entities import Rest, SourceEntity
from transforms.sources import sendgrid, stripe

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
SECOND = int(NOW.timestamp())
SPECIFICATIONS = counterparts.ROOT.parent / "shared" / "data" / "sendgrid"
SPECIFICATION_OF = {
    "messages": "tsg_email_activity_v3.json",
    "stats": "tsg_stats_v3.json",
    **dict.fromkeys(("bounces", "blocks", "spam_reports", "unsubscribes"), "tsg_suppressions_v3.json"),
}


@pytest.fixture(scope="module")
def stripe_mock() -> Iterator[str]:
    program = counterparts.stripe_mock()
    port, tls_port = processes.free_port(), processes.free_port()
    command = [str(program), "-http-addr", f"127.0.0.1:{port}", "-https-addr", f"127.0.0.1:{tls_port}"]
    with counterparts.running(command, port) as url:
        yield url


@pytest.mark.parametrize("entity", stripe.ENTITIES, ids=lambda entity: entity.name)
def test_stripe_mock_accepts_every_request_of_our_client(stripe_mock: str, entity: SourceEntity) -> None:
    connection = RestConnection(stripe_mock, "sk_test_123", tries=1)

    first = read(entity, connection, None, NOW)
    rows = [row for batch in first.batches for row in batch.to_pylist()]
    # Every list of stripe-mock holds one object, whichever the range and the cursor.
    assert len(rows) == 1
    second = read(entity, connection, first.positions, NOW + timedelta(hours=1))
    assert sum(batch.num_rows for batch in second.batches) <= 1


def test_stripe_mock_would_have_refused_a_parameter_that_does_not_exist(stripe_mock: str) -> None:
    (charges, *_) = stripe.ENTITIES
    assert isinstance(charges.read, Rest)
    wrong = replace(charges, read=replace(charges.read, parameters={"colour": "red"}))

    with pytest.raises(RestError, match="answered 400"):
        list(read(wrong, RestConnection(stripe_mock, "sk_test_123", tries=1), None, NOW).batches)


@pytest.mark.parametrize("kind", STRIPE_KINDS)
@pytest.mark.parametrize(
    "query",
    [
        "",
        "limit=100",
        "limit=many",
        "colour=red",
        "created[gte]=1&created[lt]=2",
        "created[lte]=1&created[gt]=2",
        "created[gte]=monday",
        "created=1",
        "offset=3",
    ],
)
def test_our_stripe_accepts_and_refuses_what_stripe_mock_does(
    apis: Any, stripe_mock: str, kind: str, query: str
) -> None:
    def status(url: str, key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.get(f"{url}/v1/{kind}?{query}", headers=headers, trust_env=False).status_code

    assert status(apis.url, STRIPE_KEY) == status(stripe_mock, "sk_test_123")


def test_our_stripe_objects_hold_fields_of_stripe_mock_with_its_types(stripe_mock: str) -> None:
    charge = stripe_objects.charge(id="ch_1", amount=1, currency="eur", created=1)
    ours: dict[str, dict[str, Any]] = {
        "charges": charge,
        "refunds": stripe_objects.refund(id="re_1", charge="ch_1", amount=1, currency="eur", created=1),
        "customers": stripe_objects.customer(id="cus_1", created=1),
        "balance_transactions": stripe_objects.balance_transaction(
            id="txn_1", amount=1, currency="eur", created=1, source="ch_1"
        ),
        "disputes": stripe_objects.dispute(id="dp_1", charge="ch_1", amount=1, currency="eur", created=1),
        "payouts": stripe_objects.payout(id="po_1", amount=1, currency="eur", created=1, arrival_date=2),
        "events": stripe_objects.event(id="evt_1", type="charge.succeeded", created=1, object=charge),
    }
    assert set(ours) == set(STRIPE_KINDS)
    for kind, item in ours.items():
        headers = {"Authorization": "Bearer sk_test_123"}
        answer = httpx.get(f"{stripe_mock}/v1/{kind}", headers=headers, trust_env=False).json()
        theirs = answer["data"][0]
        assert set(answer) == {"data", "has_more", "object", "url"}
        assert set(item) <= set(theirs), kind
        for name, value in item.items():
            if value is not None and theirs[name] is not None:
                assert isinstance(value, type(theirs[name])), (kind, name)


@pytest.fixture(scope="module")
def prism(house: House) -> Iterator[dict[str, str]]:
    """Addresses of Prism in front of our simulator, by specification; a breach of it is an error answer."""
    if not SPECIFICATIONS.exists():
        pytest.skip("SendGrid's specifications are not beside the project")
    program = counterparts.prism()
    upstream = str(house.apis().stripe_url)
    with ExitStack() as stack:
        addresses = {}
        for name in sorted(set(SPECIFICATION_OF.values())):
            port = processes.free_port()
            command = [str(program), "proxy", "--errors", "-h", "127.0.0.1", "-p", str(port)]
            command += [str(SPECIFICATIONS / name), upstream]
            addresses[name] = stack.enter_context(counterparts.running(command, port))
        yield addresses


@pytest.mark.parametrize("entity", sendgrid.ENTITIES, ids=lambda entity: entity.name)
def test_requests_and_answers_hold_to_the_specification_of_sendgrid(
    apis: Any, prism: dict[str, str], entity: SourceEntity
) -> None:
    for number in range(1200):
        if number % 400 == 0:
            day = f"2025-11-0{1 + number // 400}"
            apis.store.put("stats", [sendgrid_objects.stats(date=day, requests=number)])
    emails = [(f"{number:04d}@example.com", SECOND - 60 * number - 60) for number in range(1200)]
    apis.store.put(
        "messages",
        [
            sendgrid_objects.message(
                msg_id=f"m{created}",
                to_email=email,
                subject="Grüße",
                last_event_time=f"{datetime.fromtimestamp(created, UTC):%Y-%m-%dT%H:%M:%SZ}",
            )
            for email, created in emails
        ],
    )
    for kind in ("bounces", "blocks"):
        apis.store.put(
            kind, [sendgrid_objects.bounce(email=email, created=at, reason="550") for email, at in emails]
        )
    apis.store.put(
        "spam_reports",
        [sendgrid_objects.spam_report(email=email, created=at, ip="192.0.2.1") for email, at in emails],
    )
    apis.store.put(
        "unsubscribes", [sendgrid_objects.unsubscribe(email=email, created=at) for email, at in emails]
    )
    connection = apis.connection("sendgrid", base_url=prism[SPECIFICATION_OF[entity.name]], tries=1)

    extract = read(entity, connection, None, NOW)
    rows = sum(batch.num_rows for batch in extract.batches)

    assert rows == (1096 if entity.name == "stats" else 1200)
    later = read(entity, connection, extract.positions, NOW + timedelta(minutes=5))
    assert sum(batch.num_rows for batch in later.batches) == 0


def test_prism_would_have_refused_an_answer_beside_the_specification(
    apis: Any, prism: dict[str, str]
) -> None:
    (bounces,) = (entity for entity in sendgrid.ENTITIES if entity.name == "bounces")
    apis.fault("bad_record", record='{"created":"yesterday","email":7}', path="/v3/suppression")
    connection = apis.connection("sendgrid", base_url=prism[SPECIFICATION_OF["bounces"]], tries=1)

    with pytest.raises(RestError, match="answered 500"):
        list(read(bounces, connection, None, NOW).batches)
