"""Made-up events of the size and shape of real ones, the same at every run."""

# ruff: noqa: E501 - the queries read better unbroken
from __future__ import annotations

from pathlib import Path

from flows.services import Services
from flows.stores.lake import Lake, partition_folder
from flows.stores.manifest import LakeFile
from flows.stores.publication import BuiltPartition
from flows.stores.publish import publish
from transforms import engine, registry

DAY = "2025-10-07"
LEAF = "fct_events_2025_10_07"
USERS = 50_000

_TYPES = (
    "['login','logout','search','product_view','product_view','product_view','add_to_cart',"
    "'remove_from_cart','checkout_started','order_placed','feature_used','page_view','page_view','click']"
)


def facts(day: str, rows: int, *, seed: int = 0, changed: str = "false") -> str:
    """A query for the rows of fct_events on one day; those for which `changed` (SQL over `i`) holds differ
    from what the same call without it gives."""
    return f"""
    select
        md5('{day}:{seed}:' || i)::uuid as event_id,
        case when hash(i, {seed}) % 100 < 85 then (hash(i // 7, {seed}) % {USERS} + 1)::bigint end as user_id,
        {_TYPES}[(hash(i) % 14 + 1)::bigint] as event_type,
        timestamptz '{day} 00:00:00+00' + to_microseconds(i * (86400000000 // {rows})) as event_time,
        '/products/' || (hash(i // 3) % 900) || case when {changed} then '?changed' else '' end as page,
        md5('s' || (i // 9)) as session_id,
        case when hash(i) % 10 < 8 then json_object('referrer', 'https://www.example.com/' || (i % 40),
            'duration_ms', hash(i) % 90000, 'variant', ['a','b','c'][(hash(i) % 3 + 1)::bigint]) end as properties,
        md5('a' || (i // 23))[:20] as anonymous_id,
        0::smallint as topic_rank,
        (i % 4)::integer as kafka_partition,
        (i // 4)::bigint as kafka_offset
    from range({rows}) as t(i)
    """


def messages(day: str, rows: int, *, seed: int = 0, repeated: int = 40) -> str:
    """A query for the records of topic user_events of one day, as they land; one in `repeated` is sent twice.

    Without `_batch_id`, `_landed_at` and `_seq`.
    """
    return f"""
    select
        'user_events' as topic,
        (i % 4)::integer as kafka_partition,
        (i // 4)::bigint as kafka_offset,
        timestamptz '{day} 00:00:00+00' + to_microseconds(i * (86400000000 // {rows}) + 350000) as kafka_timestamp,
        (hash(n // 7, {seed}) % {USERS} + 1)::varchar::blob as key,
        null::struct(name varchar, value blob)[] as headers,
        encode('{{"event_id":"' || md5('{day}:{seed}:' || n)::uuid || '","event_type":"'
            || ['login','logout','search','product_view','product_view','add_to_cart','feature_used'][(hash(n) % 7 + 1)::bigint]
            || '","event_time":"' || strftime(timestamp '{day}' + to_microseconds(n * (86400000000 // {rows})),
                '%Y-%m-%dT%H:%M:%S.%fZ')
            || '","user_id":' || case when hash(n, {seed}) % 100 < 85
                then (hash(n // 7, {seed}) % {USERS} + 1)::varchar else 'null' end
            || ',"anonymous_id":"' || md5('a' || (n // 23))[:20] || '","session_id":"' || md5('s' || (n // 9))
            || '","page":"/products/' || (hash(n // 3) % 900)
            || '","properties":{{"referrer":"https://www.example.com/' || (n % 40) || '","duration_ms":'
            || (hash(n) % 90000) || ',"variant":"' || ['a','b','c'][(hash(n) % 3 + 1)::bigint] || '"}}}}') as value
    from (select i, case when i % {repeated} = {repeated - 1} then i - 5 else i end as n from range({rows}) as t(i))
    """


def day_file(lake: Lake, day: str, rows: int, batch: str, *, changed: str = "false") -> LakeFile:
    """Write one day of fct_events into the lake as a build does: sorted by time and key."""
    table = registry.table("fct_events")
    with engine.connect(keeps_order=True) as session:
        relation = session.sql(
            f"select * from ({facts(day, rows, changed=changed)}) order by event_time, event_id"
        )
        return lake.write(
            table.layer.value,
            table.name,
            partition_folder(table),
            day,
            batch,
            relation,
            measured="event_time",
        )


def users() -> str:
    """A query for the rows of dim_users that these events refer to."""
    columns = registry.table("dim_users").columns
    given = {
        "user_id": "i",
        "is_deleted": "false",
        "is_inferred": "false",
        "plan": "'free'",
        "email": "'u' || i || '@example.com'",
    }
    items = ", ".join(f"({given.get(c.name, 'null')})::{c.type} as {c.name}" for c in columns)
    return f"select {items} from range(1, {USERS + 1}) as t(i)"


def publish_users(services: Services) -> LakeFile:
    """Put the users into lake and warehouse: the rules of fct_events look for them."""
    table = registry.table("dim_users")
    with engine.connect(keeps_order=True) as session:
        file = services.lake.write(
            table.layer.value, table.name, None, "", "users", session.sql(users()), measured=None
        )
    built = BuiltPartition(table.name, "", (file,), based_on={"benchmark": "users"})
    publish(table, [built], warehouse=services.warehouse, lake=services.lake)
    return file


def path_of(lake: Lake, file: LakeFile) -> Path:
    """Where a file of the lake is."""
    return lake.root / file.path
