"""What a source is: one declaration for each entity that some protocol reads. It knows no vendor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

from transforms.contract import Column, ContractError, Partition, check_name

LEAST_KEPT = timedelta(days=7)
"""How long a broker has to keep a topic's records at least: a reader may be away that long and lose none."""
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
"""What Kafka takes for a topic's name (org.apache.kafka.common.internals.Topic)."""


def _one_of(where: str, word: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ContractError(f"{where}: '{value}' is no {word}. Write one of {', '.join(known)}.")


@dataclass(frozen=True)
class Control:
    """Totals the source itself gives, read in the same snapshot as the rows: the accuracy rule compares
    with them."""

    by: str
    """Timestamp column whose UTC day the totals are grouped by."""
    amount: str
    group: str | None = None


@dataclass(frozen=True)
class Postgres:
    """How a table of a PostgreSQL database is read.

    `incremental` reads half-open ranges of `cursor` (a time, UTC where it has no zone, or a whole number)
    with a lookback and finds hard deletes by comparing keys every `deletes_every`; `snapshot` reads
    everything and lands it only when its content differs; `cdc` takes Debezium's events.
    """

    table: str
    mode: Literal["incremental", "snapshot", "cdc"] = "snapshot"
    cursor: str | None = None
    lookback: timedelta = timedelta(minutes=10)
    deletes_every: timedelta | None = timedelta(0)
    """timedelta(0): with every read; None: the application never deletes here."""
    schema: str = "public"
    deletes: Literal["remove", "mark"] = "remove"
    """What models see of a row that is gone. `remove`: its key with `_op` 'd', so that they leave it out;
    `mark`: the values that it had last too, and when it went, as `_deleted_at` (null while it is there)."""
    on_change: Literal["evolve", "freeze", "quarantine"] = "evolve"
    """What to do when the source's columns are not the declared ones, or not what they were. `evolve`: a new
    one, a wider or narrower one, a renamed one, another value of an enum pass with a warning (raw keeps
    everything); one that is gone or has another type stops the table. `freeze`: any difference stops it.
    `quarantine`: what does not fit becomes a dead letter; where no row can fit, the table stops."""

    def __post_init__(self) -> None:
        where = f"Table {self.table}"
        _one_of(where, "mode", self.mode, ("cdc", "incremental", "snapshot"))
        _one_of(where, "on_change", self.on_change, ("evolve", "freeze", "quarantine"))
        _one_of(where, "deletes", self.deletes, ("remove", "mark"))
        if self.mode == "incremental" and not self.cursor:
            raise ContractError(
                f"{where}: it is read incrementally, by a column that grows with each change. Name that, "
                'e.g. `cursor="updated_at"`, or read it by `snapshot` or `cdc`.'
            )


@dataclass(frozen=True)
class Kafka:
    """A topic, read from the ledger's offsets to the end offsets taken at the start."""

    topic: str
    event_time: str = "event_time"
    """JSON field whose UTC day says which windows a batch touches."""
    retention: timedelta = LEAST_KEPT
    """How long the broker has to keep a record; `python -m flows doctor` says where it keeps it for less."""

    def __post_init__(self) -> None:
        if not _TOPIC.fullmatch(self.topic) or self.topic in (".", ".."):
            raise ContractError(
                f"Topic '{self.topic}': Kafka has no topic of such a name. Write one of 1 to 249 letters, "
                "digits, `.`, `_` and `-`."
            )
        if self.retention < LEAST_KEPT:
            raise ContractError(
                f"Topic {self.topic}: a retention of less than {LEAST_KEPT.days} days is too short for a "
                f"reader that was away. Write `retention=timedelta(days={LEAST_KEPT.days})` or more."
            )


Auth = Literal["bearer", "http_basic", "api_key", "oauth2", "none"]
Pages = Literal["cursor", "offset", "page_number", "header_link", "json_link", "single_page", "window"]
Times = Literal["unix", "unix_ms", "iso", "date"]


@dataclass(frozen=True)
class Api:
    """How an API is asked, declared once and given to each of its lists. Where it is, and its key, say the
    settings.

    `auth` says how it takes the key. `bearer`: as `Authorization: Bearer KEY`; `http_basic`: the key is
    `user:password`, or a user alone; `api_key`: the header or query parameter `name` holds it; `oauth2`: the
    key is `client id:client secret`, for which `token_url` gives the token that is sent (the grant of client
    credentials); `none`: it takes none.
    """

    auth: Auth = "bearer"
    name: str = "Authorization"
    location: Literal["header", "query"] = "header"
    prefix: str = ""
    """What stands before the key in that header, e.g. `Token `."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Fixed headers of each request, e.g. the version of the API."""
    title: str = ""
    """How people call it; empty: as the source."""
    token_url: str = ""
    """Where `oauth2` asks for its token: an address, or a path at the host of the settings."""
    token_parameters: Mapping[str, str] = field(default_factory=dict)
    """What is said there beside client and grant, e.g. `scope` or `audience`."""
    token_client: Literal["header", "body"] = "header"
    """Where id and secret of the client stand there: in the header, as `http_basic` sends them, or in the
    form, as `client_id` and `client_secret`."""

    def __post_init__(self) -> None:
        where = f"API {self.title}".rstrip()
        _one_of(where, "auth", self.auth, get_args(Auth))
        _one_of(where, "location", self.location, ("header", "query"))
        _one_of(where, "token_client", self.token_client, ("header", "body"))


@dataclass(frozen=True)
class Rest:
    """A list endpoint.

    `paging` is one of the protocol's ways. `single_page`: there is one answer, a list or one object;
    `page_number`: pages are numbered; `offset`: offset / limit; `cursor`: the token that the answer has at
    `next_path`, else the last object's id, goes back; `header_link`: the answer's header `Link` has the next
    page's address; `json_link`: the answer has it at `next_path`; `window`: no paging, the range is split
    until an answer is not full. `since`/`until` name the parameters of the range, written as `time_format`
    says. Dots in a path go deeper.
    """

    path: str
    records: str | None
    """Where the list is in the answer (`data`, `data.items`); None: the answer is the list."""
    paging: Pages
    api: Api = Api()
    null_is_empty: bool = False
    """Whether the API writes null there where it lists nothing; else null is an answer that is broken."""
    since: str | None = None
    until: str | None = None
    time_format: Times = "unix"
    """How times are written; `unix_ms`: milliseconds since 1970, in the records too."""
    page_size: int = 100
    lookback: timedelta = timedelta(hours=1)
    """How late an object may be listed behind younger ones: so far before its last end a read begins, or with
    the newest object seen where that is older. What is listed later than that is never asked for."""
    id_fields: tuple[str, ...] = ("id",)
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Fixed query parameters; `{since}` and `{until}` in a value stand for the range."""
    body: Mapping[str, Any] | None = None
    """What is sent as JSON, by POST: a search. Its texts may hold `{since}` and `{until}`; the parameters of
    range and paging stand in it then."""
    limit_param: str | None = "limit"
    """Parameter of the page's size; None: the API has none."""
    offset_param: str = "offset"
    page_param: str = "page"
    base_page: int = 1
    """Number of the first page."""
    cursor_param: str = "cursor"
    next_path: str | None = None
    """Where an answer has the cursor or the address of the next page; nothing is there on the last one."""
    more_path: str | None = None
    """Where it says whether there is more: true or false. What it denies is asked for once all the same."""
    end_path: str | None = None
    """Where it says instead whether this was the last page: true or false."""
    total_path: str | None = None
    """Where it has the number of all records, of paging `page_number`: what is missing at the end is told."""
    pages_path: str | None = None
    """Where it has the number of all pages."""
    lost_cursor: str | None = None
    """Code of the error that says that a cursor's object is gone: paging goes on after the one before it."""
    split: tuple[str, ...] | None = None
    """What `{split}` in a parameter becomes, of paging `window`, in the two parts of a second whose answer is
    full: below an id, and from it on; `{id}` stands for it. None: such a second can't be read whole."""
    until_is_inclusive: bool = False
    """Whether the API counts the upper end in; ranges here are half-open, so it is then given a step
    earlier."""
    recorded_at: str = "created"
    """Field of a record that the range is about; dots go deeper."""
    event_time: str | None = None
    """Field of a record whose UTC day says which windows a batch touches; None: the whole entity is one."""
    history: timedelta | None = None
    """How far back the first read goes; None: to the beginning."""
    keeps: timedelta | None = None
    """How long the API keeps its records; an older position has lost some, which stops the entity."""

    def __post_init__(self) -> None:
        _one_of(f"List {self.path}", "paging", self.paging, get_args(Pages))
        _one_of(f"List {self.path}", "time_format", self.time_format, get_args(Times))

    def asks(self, bound: Literal["since", "until"]) -> bool:
        """Whether a request names that end of the range, by a parameter of its own or within a text."""
        given = (*self.parameters.values(), repr(self.body))
        return bool(getattr(self, bound)) or any(f"{{{bound}}}" in text for text in given)


@dataclass(frozen=True)
class SourceEntity:
    """One landed entity: where it comes from, what identifies it, how its windows are found."""

    source: str
    """`app` (the application's database), `events` (topics), or an API: settings say where one of that name
    is, `ANALYTICS_<SOURCE>_URL` and `ANALYTICS_<SOURCE>_KEY`."""
    name: str
    read: Postgres | Kafka | Rest
    key: tuple[str, ...]
    grain: str
    columns: tuple[Column, ...] = ()
    """The columns as the source has them; protocols with a fixed record shape leave this empty."""
    partition: Partition | None = None
    """The windows a landing touches: a column that never changes for a key. None: one window, the whole
    entity."""
    control: Control | None = None
    person: str | None = None
    """Column that says whose row it is, by the application's user id; an erasure takes the columns with
    personal data out of that person's rows."""
    personal: tuple[str, ...] = ()
    """Of a protocol without columns: fields that hold personal data of whose address stands beside them."""
    retention: timedelta | None = None
    """How long raw is kept, behind the end of its windows and of the day it was landed on; None: for ever.
    Not for a database's tables; what is made of it has a shorter one (transforms.retention)."""
    owner: str = "data-team"
    description: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """Columns of a database's table that no landed row has null: without its key it is no row, without
        its cursor it is never met again, without the column of its window no partition can hold it.
        """
        cursor = self.read.cursor if isinstance(self.read, Postgres) else None
        window = self.partition.by if self.partition else None
        return tuple(dict.fromkeys(name for name in (*self.key, cursor, window) if name))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Columns that hold a person's e-mail address."""
        return tuple(column.name for column in self.columns if column.pii and "email" in column.name)

    @property
    def place(self) -> str:
        """How people name what is read: `app.orders`."""
        return f"{self.source}.{self.name}"

    @property
    def table(self) -> str:
        """Name of the raw table, `raw_<source>__<name>`."""
        return check_name(f"raw_{self.source}__{self.name}")
