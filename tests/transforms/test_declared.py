"""Declarations of sources that no reader could follow: told when they are read, in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transforms import registry
from transforms.contract import Column, ContractError, Partition
from transforms.entities import Api, Control, Kafka, Postgres, Rest, SourceEntity

TABLE = SourceEntity(
    source="app",
    name="t",
    read=Postgres("t", mode="incremental", cursor="at"),
    key=("id",),
    grain="one row",
    columns=(Column("id", "bigint"), Column("at", "timestamptz"), Column("kind", "varchar")),
    partition=Partition("at", "day"),
)
TOPIC = SourceEntity(
    source="events",
    name="t",
    read=Kafka("t"),
    key=("kafka_partition", "kafka_offset"),
    grain="one row",
    partition=Partition("event_time", "day"),
)
LISTED = Rest("/v1/t", "data", "cursor", event_time="created")
LIST = SourceEntity(
    source="stripe",
    name="t",
    read=LISTED,
    key=("id",),
    grain="one row",
    partition=Partition("created", "day"),
)
WEEK: Any = "week"


def with_column(name: str) -> SourceEntity:
    return replace(TABLE, columns=(*TABLE.columns, Column(name, "varchar")))


def listed(**words: Any) -> SourceEntity:
    return replace(LIST, read=replace(LISTED, **words))


REFUSED: dict[str, tuple[Callable[[], SourceEntity], str]] = {
    "an API that settings can't be named by": (
        lambda: replace(LIST, source="My-CRM"),
        "My-CRM.t: 'My-CRM' can't be a source's name: its settings would be ANALYTICS_MY-CRM_URL and …_KEY. "
        "Write another, of lower-case letters, digits and single _",
    ),
    "an API whose tables could be another's": (
        lambda: replace(LIST, source="crm__eu"),
        "crm__eu.t: 'crm__eu' can't be a source's name",
    ),
    "an API whose key would be another thing's": (
        lambda: replace(LIST, source="backup"),
        "backup.t: 'backup' can't be a source's name: its settings would be ANALYTICS_BACKUP_URL",
    ),
    "a table of an API": (
        lambda: replace(TABLE, source="stripe"),
        "stripe.t: of stripe are read lists of an API (Rest), and this is declared as Postgres. Write "
        "another `source` (app), or `read=Rest(…)`.",
    ),
    "a list of the application": (
        lambda: replace(LIST, source="app"),
        "app.t: of app are read tables (Postgres), and this is declared as Rest. Write another `source` "
        "(the API's name), or `read=Postgres(…)`.",
    ),
    "a key that is a text": (
        lambda: replace(TABLE, key="id"),  # type: ignore[arg-type]
        'app.t: its key is a text, where names belong. Write `key=("id",)`, with the comma.',
    ),
    "no key": (lambda: replace(TABLE, key=()), "app.t: it has no key. Write `key=(…,)` with the columns"),
    "a key that is no column": (
        lambda: replace(TABLE, key=("number",)),
        "app.t: its key has number, which is none of its columns. Write `key=(…,)` with the columns",
    ),
    "personal fields that are a text": (
        lambda: replace(LIST, personal="name"),  # type: ignore[arg-type]
        'stripe.t: its personal is a text, where names belong. Write `personal=("name",)`, with the comma.',
    ),
    "fields of an id that are a text": (
        lambda: listed(id_fields="id"),
        'stripe.t: its id_fields is a text, where names belong. Write `id_fields=("id",)`, with the comma.',
    ),
    "one name twice": (lambda: with_column("kind"), "app.t: both kind and kind are among its columns"),
    "one name in two cases": (lambda: with_column("ID"), "app.t: both id and ID are among its columns"),
    "a name of raw's own": (lambda: with_column("_Seq"), "app.t: raw has a column _Seq of its own."),
    "the name of raw's folders": (lambda: with_column("landed_on"), "app.t: raw has a column landed_on of"),
    "a cursor that is no column": (
        lambda: replace(TABLE, read=Postgres("t", mode="incremental", cursor="updated_at")),
        "app.t: its cursor is updated_at, which is none of its columns. Declare that, or correct the name.",
    ),
    "windows by no column": (
        lambda: replace(TABLE, partition=Partition("created_at", "day")),
        "app.t: its partition is created_at, which is none of its columns.",
    ),
    "windows by no time": (
        lambda: replace(TABLE, partition=Partition("kind", "day")),
        "app.t: its partition is by kind, which is no time but varchar. Name a date or a timestamp",
    ),
    "windows of a week": (
        lambda: replace(TABLE, partition=Partition("at", WEEK)),
        "Partition by at: 'week' is no window. Write day or month.",
    ),
    "a person that is no column": (
        lambda: replace(TABLE, person="user_id"),
        "app.t: its person is user_id, which is none of its columns.",
    ),
    "totals of no column": (
        lambda: replace(TABLE, control=Control(by="at", amount="price")),
        "app.t: its control's amount is price, which is none of its columns.",
    ),
    "columns of a topic": (
        lambda: replace(TOPIC, columns=(Column("kafka_partition", "int"), Column("kafka_offset", "bigint"))),
        "events.t: columns are a table's; topics and lists have the same ones always.",
    ),
    "windows by another field than the topic's": (
        lambda: replace(TOPIC, partition=Partition("ts", "day")),
        "events.t: its windows are told by the event_time of `Kafka(…)`, which is event_time, and its "
        'partition is by ts. Write `event_time="ts"` there, or the same in `Partition(…)`.',
    ),
    "windows of a list that tells none": (
        lambda: listed(event_time=None),
        "stripe.t: its windows are told by the event_time of `Rest(…)`, which is not given, and its",
    ),
    "a path without a slash": (
        lambda: listed(path="v1/t"),
        "stripe.t: the path 'v1/t' begins without /. Write what follows the address",
    ),
    "objects that nothing tells apart": (
        lambda: listed(id_fields=()),
        'stripe.t: nothing tells its objects apart. Write `id_fields=("id",)`',
    ),
    "pages that overlap wholly": (
        lambda: listed(paging="offset", page_size=1),
        "stripe.t: a page_size of 1 reads no list whole. Write 2 or more",
    ),
    "pages of nothing": (
        lambda: listed(page_size=0),
        "stripe.t: a page_size of 0 reads no list whole. Write 1 or more",
    ),
    "windows of which nothing is asked": (
        lambda: listed(paging="window", since="from"),
        "stripe.t: paging by windows asks for ranges of time, and nothing says how. Name the parameters",
    ),
    "a path with parameters": (
        lambda: listed(path="/v1/t?kind=a"),
        "stripe.t: the path '/v1/t?kind=a' holds ?, which nothing fills. What stands behind it belongs into",
    ),
    "a path for each of others": (
        lambda: listed(path="/v1/{id}/t"),
        "stripe.t: the path '/v1/{id}/t' holds {, which nothing fills. Write it out.",
    ),
    "a key that raw does not have": (
        lambda: replace(LIST, key=("number",)),
        'stripe.t: its key is number, and raw has what an API lists by its id. Write `key=("id",)`, and in',
    ),
    "a total of what has no numbers": (
        lambda: listed(total_path="total"),
        "stripe.t: `total_path` says nothing of paging by cursor, but of page_number. Take it out",
    ),
    "a cursor of what is numbered": (
        lambda: listed(paging="page_number", next_path="next"),
        "stripe.t: `next_path` says nothing of paging by page_number, but of cursor and json_link.",
    ),
    "an end of what is numbered": (
        lambda: listed(paging="page_number", end_path="last"),
        "stripe.t: `end_path` says nothing of paging by page_number, but of cursor and header_link and",
    ),
    "a flag that is told both ways": (
        lambda: listed(more_path="more", end_path="last"),
        "stripe.t: `more_path` and `end_path` are one flag, told either way. Take the one out that answers",
    ),
    "an address that is nowhere": (
        lambda: listed(paging="json_link"),
        "stripe.t: an answer has the next page's address, and nothing says where. Write `next_path=`.",
    ),
    "a search with links": (
        lambda: listed(paging="header_link", body={}),
        "stripe.t: a search by POST has no pages by header_link",
    ),
    "cursors of several fields": (
        lambda: listed(id_fields=("account", "number")),
        "stripe.t: the last object's id is the cursor, and one of several fields is none that an API knows.",
    ),
    "lost cursors that are no ids": (
        lambda: listed(next_path="next", lost_cursor="gone"),
        "stripe.t: `lost_cursor` is about cursors that are ids, and `next_path` gives others.",
    ),
    "a parameter twice": (
        lambda: listed(parameters={"limit": "5"}),
        "stripe.t: its parameter limit is given twice. Take it out of `parameters`, or name another one.",
    ),
    "a key's parameter twice": (
        lambda: listed(since="key", api=Api(auth="api_key", name="key", location="query")),
        "stripe.t: its parameter key is given twice.",
    ),
    "a header that is the protocol's": (
        lambda: listed(api=Api(headers={"authorization": "Bearer sk"})),
        "stripe.t: its API has a header authorization among the fixed ones, which the protocol writes, and "
        "keys are settings.",
    ),
    "a header that has the key": (
        lambda: listed(api=Api(auth="api_key", name="X-Key", headers={"x-key": "sk"})),
        "stripe.t: its API has a header x-key among the fixed ones",
    ),
    "a name where none is asked for": (
        lambda: listed(api=Api(auth="http_basic", name="X-Key")),
        "stripe.t: `name`, `location` and `prefix` say where an API wants its key, and http_basic says that",
    ),
    "a key without a name": (
        lambda: listed(api=Api(auth="api_key", name="")),
        "stripe.t: its API takes the key by a name, and none is given. Write `name=` in `Api(…)`.",
    ),
    "a header that is none": (
        lambda: listed(api=Api(headers={"X-Name": "Zoë"})),
        "stripe.t: its API's header 'X-Name' is none that can be sent. Write letters, digits",
    ),
    "a key's header that is none": (
        lambda: listed(api=Api(auth="api_key", name="X Key")),
        "stripe.t: its API's header 'X Key' is none that can be sent.",
    ),
    "tokens that nothing gives": (
        lambda: listed(api=Api(auth="oauth2")),
        "stripe.t: the token_url '' of its API is no place where a token can be asked for. Write an address",
    ),
    "a place of tokens with something behind it": (
        lambda: listed(api=Api(auth="oauth2", token_url="https://login.example.com/token?tenant=a")),
        "stripe.t: the token_url 'https://login.example.com/token?tenant=a' of its API is no place",
    ),
    "a place of tokens for a key": (
        lambda: listed(api=Api(token_url="/oauth/token")),
        'stripe.t: `token_url` is about `auth="oauth2"`, and its API has bearer. Take one of them out.',
    ),
    "a client's secret in the declaration": (
        lambda: listed(api=Api(auth="oauth2", token_url="/t", token_parameters={"client_secret": "s"})),
        "stripe.t: its API has a client_secret among `token_parameters`, and keys are settings. Take it out",
    ),
    "a client that stands nowhere": (
        lambda: listed(api=Api(auth="oauth2", token_url="/t", token_client=WEEK)),
        "API: 'week' is no token_client. Write one of header, body.",
    ),
    "a body that is no JSON": (
        lambda: listed(next_path="next", body={"since": {1, 2}}),
        "stripe.t: its body can't be sent as JSON: Object of type set is not JSON serializable. Write texts",
    ),
    "a prefix in the query": (
        lambda: listed(api=Api(auth="api_key", name="key", location="query", prefix="Token ")),
        "stripe.t: a prefix stands before the key in a header, and this API takes it in the query.",
    ),
    "a way that is none": (
        lambda: listed(paging="pages"),
        "List /v1/t: 'pages' is no paging. Write one of cursor, offset, page_number,",
    ),
    "an auth that is none": (
        lambda: listed(api=Api(auth=WEEK)),
        "API: 'week' is no auth. Write one of bearer, http_basic, api_key, oauth2, none.",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_declaration_that_contradicts_itself_is_refused_with_what_to_write(
    tmp_path: Path, what: str
) -> None:
    declare, message = REFUSED[what]
    with pytest.raises(ContractError) as caught:
        registry.read(tmp_path, [declare()])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "entity",
    [
        TABLE,
        replace(TABLE, columns=()),  # `schema diff --write` declares them
        with_column('odd "name"'),
        TOPIC,
        LIST,
        replace(LIST, source="crm_2"),
        replace(LIST, read=replace(LISTED, event_time=None), partition=None),
        listed(paging="window", parameters={"query": "{since}/{until}"}),
        listed(paging="window", body={"range": {"from": ["{since}"], "to": "{until}"}}),
        listed(paging="page_number", total_path="meta.total", limit_param=None, base_page=0),
        listed(paging="json_link", next_path="@next", more_path="more"),
        listed(api=Api(auth="oauth2", token_url="/oauth/token", token_parameters={"scope": "read"})),
        listed(api=Api(auth="oauth2", token_url="https://login.example.com/t", token_client="body")),
        listed(
            next_path="next", body={"filter": "{since}"}, api=Api(auth="api_key", name="k", location="query")
        ),
    ],
)
def test_one_that_a_reader_can_follow_is_not(tmp_path: Path, entity: SourceEntity) -> None:
    assert registry.read(tmp_path, [entity]).entities == {entity.table: entity}


def test_lists_of_one_api_that_are_asked_otherwise_are_refused(tmp_path: Path) -> None:
    other = replace(LIST, name="u", read=replace(LISTED, api=Api(auth="http_basic")))
    with pytest.raises(
        ContractError, match=r"stripe\.u: stripe\.t says otherwise how stripe is asked"
    ) as told:
        registry.read(tmp_path, [LIST, other])
    assert "write `api=API` into each of its lists" in str(told.value)
    crm = replace(other, source="crm")
    assert len(registry.read(tmp_path, [LIST, crm]).entities) == 2
