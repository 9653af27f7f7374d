"""Declarations of sources that contradict themselves: refused where they are read, with what to write.

What is let pass here would end a landing with an error that names no declaration, or land something else
than what was meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from transforms import changes
from transforms.contract import ContractError
from transforms.entities import Api, Kafka, Pages, Postgres, Rest, SourceEntity
from transforms.model import canonical_type

_READ_BY: dict[str, type] = {"app": Postgres, "events": Kafka}
"""What is read of the sources that are there once. Any other is an API, and settings are named by it."""
_API = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
TAKEN = frozenset(("backup", "connect", "openlineage"))
"""Names by which settings of other things are called: `ANALYTICS_BACKUP_KEY` is no API's."""
_HEADER, _VALUE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"), re.compile(r"[ -~]*")
"""What HTTP takes for a header's name (RFC 9110), and what everybody takes for its value."""
_TOKEN_URL = re.compile(r"(https?:/)?/[^\s/?#@][^\s?#@]*")
"""An address, or the path of one."""
_PLAIN, _BARE = Api(), Rest("/", None, "single_page")
_OF_PAGING: dict[tuple[str, ...], tuple[Pages, ...]] = {
    ("next_path",): ("cursor", "json_link"),
    ("more_path", "end_path"): ("cursor", "header_link", "json_link"),
    ("total_path", "pages_path", "page_param", "base_page"): ("page_number",),
    ("offset_param",): ("offset",),
    ("cursor_param", "lost_cursor"): ("cursor",),
    ("split",): ("window",),
}
"""What is about some ways of paging alone."""
_WHAT = {Postgres: "tables (Postgres)", Kafka: "topics (Kafka)", Rest: "lists of an API (Rest)"}


def check(entity: SourceEntity) -> None:
    """Raises ContractError for a declaration that no reader could follow."""
    told = (
        [*_of_the_source(entity)]
        or [*_of_texts(entity)]
        or [*_of_the_key(entity)]
        or [*_of_the_protocol(entity)]
    )
    if told:
        raise ContractError(f"{entity.place}: {told[0]}")


def check_together(entities: Iterable[SourceEntity]) -> None:
    """Raises ContractError for two lists of one API that say otherwise how it is asked."""
    apis: dict[str, SourceEntity] = {}
    for entity in entities:
        if isinstance(entity.read, Rest):
            first = apis.setdefault(entity.source, entity)
            if isinstance(first.read, Rest) and first.read.api != entity.read.api:
                raise ContractError(
                    f"{entity.place}: {first.place} says otherwise how {entity.source} is asked. Declare it "
                    "once, `API = Api(…)`, and write `api=API` into each of its lists."
                )


def _of_the_source(entity: SourceEntity) -> Iterator[str]:
    kind = _READ_BY.get(entity.source, Rest)
    if kind is Rest and (entity.source in TAKEN or not _API.fullmatch(entity.source)):
        yield (
            f"'{entity.source}' can't be a source's name: its settings would be "
            f"ANALYTICS_{entity.source.upper()}_URL and …_KEY. Write another, of lower-case letters, digits "
            f"and single _, and none of {', '.join(sorted(TAKEN))}."
        )
    elif not isinstance(entity.read, kind):
        fitting = " or ".join(name for name, one in _READ_BY.items() if isinstance(entity.read, one))
        fitting = fitting or "the API's name"
        yield (
            f"of {entity.source} are read {_WHAT[kind]}, and this is declared as "
            f"{type(entity.read).__name__}. Write another `source` ({fitting}), or `read={kind.__name__}(…)`."
        )


def _of_texts(entity: SourceEntity) -> Iterator[str]:
    """A text where a tuple belongs is one of letters."""
    fields: dict[str, object] = {"key": entity.key, "personal": entity.personal}
    if isinstance(entity.read, Rest):
        fields["id_fields"] = entity.read.id_fields
    for name, value in fields.items():
        if isinstance(value, str):
            yield f'its {name} is a text, where names belong. Write `{name}=("{value}",)`, with the comma.'


def _of_the_key(entity: SourceEntity) -> Iterator[str]:
    names = {column.name for column in entity.columns}
    strange = [name for name in entity.key if names and name not in names]
    if not entity.key or strange:
        what = f"its key has {strange[0]}, which is none of its columns" if strange else "it has no key"
        yield f"{what}. Write `key=(…,)` with the columns that are unique together."


def _of_the_protocol(entity: SourceEntity) -> Iterator[str]:
    if isinstance(entity.read, Postgres):
        yield from _of_columns(entity, entity.read)
        return
    if entity.columns:
        yield "columns are a table's; topics and lists have the same ones always. Take `columns` out."
    by = entity.partition.by if entity.partition else None
    if by is not None and by != entity.read.event_time:
        kind, given = type(entity.read).__name__, entity.read.event_time or "not given"
        yield (
            f"its windows are told by the event_time of `{kind}(…)`, which is {given}, "
            f'and its partition is by {by}. Write `event_time="{by}"` there, or the same in `Partition(…)`.'
        )
    if isinstance(entity.read, Rest):
        if entity.key != ("id",):
            yield (
                f"its key is {', '.join(entity.key)}, and raw has what an API lists by its id. Write "
                '`key=("id",)`, and in `Rest(…)` the fields that make it, `id_fields=(…,)`.'
            )
        yield from _of_an_api(entity.read.api)
        yield from _of_a_list(entity.read)
        yield from _of_pages(entity.read)


def _of_columns(entity: SourceEntity, read: Postgres) -> Iterator[str]:
    seen: dict[str, str] = {}
    for column in entity.columns:
        folded = column.name.lower()
        if folded in seen:
            yield (
                f"both {seen[folded]} and {column.name} are among its columns, and case makes no difference "
                "here. Declare one of them; to have both, read a view that calls the other otherwise."
            )
        elif folded in changes.OWN:
            yield (
                f"raw has a column {column.name} of its own. Leave that out, or read a view that calls it "
                "otherwise."
            )
        seen[folded] = column.name
    types = {column.name: column.type for column in entity.columns}
    spoken = {"cursor": read.cursor, "partition": entity.partition.by if entity.partition else None}
    spoken["person"] = entity.person
    if entity.control:
        spoken["control"] = entity.control.by
        spoken["control's amount"], spoken["control's group"] = entity.control.amount, entity.control.group
    for word, name in spoken.items():
        if name is not None and types and name not in types:
            yield f"its {word} is {name}, which is none of its columns. Declare that, or correct the name."
    kind = types.get(entity.partition.by) if entity.partition else None
    if kind and not canonical_type(kind).startswith(("DATE", "TIMESTAMP")):
        yield (
            f"its partition is by {spoken['partition']}, which is no time but {kind}. Name a date or a "
            "timestamp, or take `partition` out."
        )


def _of_an_api(api: Api) -> Iterator[str]:
    if api.auth == "api_key" and not api.name:
        yield "its API takes the key by a name, and none is given. Write `name=` in `Api(…)`."
    yield from _of_a_token(api)
    if api.auth != "api_key" and api != replace(api, name=_PLAIN.name, location="header", prefix=""):
        yield (
            f"`name`, `location` and `prefix` say where an API wants its key, and {api.auth} says that, too. "
            'Take them out of `Api(…)`, or write `auth="api_key"`.'
        )
    sent = {**api.headers, **({api.name: api.prefix} if api.auth == "api_key" else {})}
    for name, value in sent.items():
        is_parameter = api.location == "query" and name == api.name
        if name and not is_parameter and not (_HEADER.fullmatch(name) and _VALUE.fullmatch(value)):
            yield (
                f"its API's header '{name}' is none that can be sent. Write letters, digits and - for its "
                "name, and one line of ASCII for what it says."
            )
    if api.location == "query" and api.prefix:
        yield "a prefix stands before the key in a header, and this API takes it in the query. Take it out."
    own = {"authorization", "cookie", "accept-encoding", "content-length", "content-type", "host"}
    own |= {api.name.lower()} if api.auth == "api_key" else set()
    for name in api.headers:
        if name.lower() in own:
            yield (
                f"its API has a header {name} among the fixed ones, which the protocol writes, and keys are "
                "settings. Take it out; `auth=` says how the key is sent."
            )


def _of_a_token(api: Api) -> Iterator[str]:
    words = ("token_url", "token_parameters", "token_client")
    said = [word for word in words if getattr(api, word) != getattr(_PLAIN, word)]
    if api.auth != "oauth2" and said:
        yield f'`{said[0]}` is about `auth="oauth2"`, and its API has {api.auth}. Take one of them out.'
    if api.auth == "oauth2" and not _TOKEN_URL.fullmatch(api.token_url):
        yield (
            f"the token_url '{api.token_url}' of its API is no place where a token can be asked for. Write "
            "an address without ? and #, `https://login.example.com/oauth/token`, or `/oauth/token` where "
            "the host of the settings gives it."
        )
    for name in ("client_id", "client_secret"):
        if name in api.token_parameters:
            yield (
                f"its API has a {name} among `token_parameters`, and keys are settings. Take it out; "
                '`token_client="body"` sends it there.'
            )


def _of_a_list(read: Rest) -> Iterator[str]:
    if not read.path.startswith("/"):
        yield f"the path '{read.path}' begins without /. Write what follows the address, e.g. `/v1/charges`."
    for mark, instead in (("?", "What stands behind it belongs into `parameters`"), ("{", "Write it out")):
        if mark in read.path:
            yield f"the path '{read.path}' holds {mark}, which nothing fills. {instead}."
    if not read.id_fields:
        yield 'nothing tells its objects apart. Write `id_fields=("id",)`, with the fields that do.'
    least = 2 if read.paging == "offset" else 1
    if read.page_size < least:
        yield (
            f"a page_size of {read.page_size} reads no list whole. Write {least} or more: as many as the "
            "API gives at once."
        )
    if read.paging == "window" and not (read.asks("since") and read.asks("until")):
        yield (
            "paging by windows asks for ranges of time, and nothing says how. Name the parameters, "
            "`since=` and `until=`, or write {since} and {until} into one of `parameters`."
        )


def _of_pages(read: Rest) -> Iterator[str]:
    """What is said of other ways of paging would be passed over."""
    for words, ways in _OF_PAGING.items():
        for word in words:
            if getattr(read, word) != getattr(_BARE, word) and read.paging not in ways:
                yield (
                    f"`{word}` says nothing of paging by {read.paging}, but of {' and '.join(ways)}. Take it "
                    "out, or write another `paging`."
                )
    if read.more_path and read.end_path:
        yield "`more_path` and `end_path` are one flag, told either way. Take the one out that answers lack."
    if read.paging == "json_link" and not read.next_path:
        yield "an answer has the next page's address, and nothing says where. Write `next_path=`."
    try:
        json.dumps(read.body)
    except (TypeError, ValueError) as error:
        yield f"its body can't be sent as JSON: {error}. Write texts, numbers, lists and mappings of them."
    if read.body is not None and read.paging in ("header_link", "json_link"):
        yield f"a search by POST has no pages by {read.paging}: an address is not asked again with a body."
    if read.paging == "cursor" and not read.next_path and len(read.id_fields) > 1:
        yield (
            "the last object's id is the cursor, and one of several fields is none that an API knows. Write "
            "`next_path=`, where answers have a cursor, or another `paging`."
        )
    if read.lost_cursor and read.next_path:
        yield "`lost_cursor` is about cursors that are ids, and `next_path` gives others. Take one out."
    own = [name for name in (read.since, read.until, _paging_param(read)) if name]
    own += [read.limit_param] if read.limit_param and read.paging != "single_page" else []
    own += [read.api.name] if read.api.auth == "api_key" and read.api.location == "query" else []
    given = [*own, *read.parameters]
    for name in dict.fromkeys(given):
        if given.count(name) > 1:
            yield f"its parameter {name} is given twice. Take it out of `parameters`, or name another one."


def _paging_param(read: Rest) -> str | None:
    ways = {"offset": read.offset_param, "page_number": read.page_param, "cursor": read.cursor_param}
    return ways.get(read.paging)
