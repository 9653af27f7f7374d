"""What is JSON, and what a text in it, as Python's strict reader has it: the models' own looks only for what
its parser lets pass.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn
from uuid import UUID

import hypothesis.strategies as st
import pytest
from duckdb import DuckDBPyConnection
from hypothesis import example, given

from tests.transforms.given_expect import Case, difference
from tests.transforms.recomputed import ANY
from transforms import registry

_TEXTS = {
    "stg_events__user_events": ("anonymous_id", "session_id", "page"),
    "stg_events__page_views": ("anonymous_id", "session_id", "title"),
    "stg_events__clicks": ("anonymous_id", "session_id", "element"),
}
"""Staging model → columns that are a text, and called as the field is."""

_words = st.sampled_from(["nan", "inf", "infinity"]).flatmap(
    lambda word: st.tuples(*(st.sampled_from([letter, letter.upper()]) for letter in word)).map("".join)
)
_no_numbers = st.builds("".join, st.tuples(st.sampled_from(["", "-"]), _words))
_others = st.sampled_from(
    ["5", "-0", "-1.5e+3", "1E400", "true", "false", "null", "[]", '[1, "a"]', '{"a": 1}']
)
_strings = st.one_of(
    _words.map(json.dumps),
    st.sampled_from(["a", "5", "-1.5e3", "true", "[x]", "{", "Name, }", "IN ]", "", "\\", '"', "\n"]).map(
        json.dumps
    ),
)
_values = st.one_of(_strings, _others, _no_numbers)
_messages = st.fixed_dictionaries(
    {
        "texts": st.lists(_strings | _values, min_size=3, max_size=3),
        "beside": _strings | _values,
        "nested": st.booleans(),
        "gap": st.sampled_from(["", " ", "\n", "\t"]),
        "last": st.sampled_from(["", "", "", ","]),
        "escaped": st.booleans(),
    }
)


@pytest.mark.parametrize("model", _TEXTS)
@ANY
@given(sent=st.lists(_messages, min_size=1, max_size=12))
@example(
    sent=[
        {"texts": [word] * 3, "beside": word, "nested": nested, "gap": "", "last": "", "escaped": False}
        for word in ('"a"', "NaN", "-iNF", "nAn", "[1,\n2]")
        for nested in (False, True)
    ]
)
def test_what_python_does_not_read_is_a_dead_letter(
    duck: DuckDBPyConnection, model: str, sent: list[dict[str, Any]]
) -> None:
    raw, rows, letters = [], [], []
    for offset, message in enumerate(sent):
        value = _written(offset, _TEXTS[model], **message)
        raw.append({"kafka_partition": 0, "kafka_offset": offset, "value": value})
        seen = _read(value)
        texts = {name: seen and seen.get(name) for name in _TEXTS[model]}
        if seen is None or any(not isinstance(text, str | None) for text in texts.values()):
            letters.append({"kafka_offset": offset})
        else:
            rows.append({"event_id": UUID(int=offset), **texts})
    case = Case(model, "any", {model.replace("stg_", "raw_"): raw}, rows, letters)
    assert difference(case, duck, registry.default()) == ""


def _written(
    offset: int,
    names: tuple[str, ...],
    texts: list[str],
    beside: str,
    nested: bool,
    gap: str,
    last: str,
    escaped: bool,
) -> str:
    fields = {
        "event_id": json.dumps(str(UUID(int=offset))),
        "event_type": '"login"',
        "event_time": '"2025-10-07T12:00:00Z"',
        **dict(zip(names, texts, strict=True)),
        "beside": f"[{beside}]" if nested else beside,
    }
    written = [f'"{_in_escapes(name) if escaped else name}":{gap}{value}' for name, value in fields.items()]
    return "{" + f",{gap}".join(written) + last + "}"


def _in_escapes(name: str) -> str:
    return f"\\u{ord(name[0]):04x}{name[1:]}"


def _read(value: str) -> dict[str, Any] | None:
    def no_number(_: str) -> NoReturn:
        raise ValueError

    try:
        read: dict[str, Any] = json.loads(value, parse_constant=no_number)
    except ValueError:
        return None
    return read
