"""The dictionary as Markdown: what people read first comes first, what is made for it after it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.catalog import facts, made

_CHAPTERS = {
    "marts": "Marts: answers",
    "facts": "Facts: what happened",
    "dimensions": "Dimensions: who and what it happened to",
    "view": "Views: materialized, over the marts",
    "chart": "Charts of the dashboards",
    "staging": "Staging: what landed, typed and deduplicated (in the lake alone)",
    "raw": "Raw: what arrived, unchanged (in the lake alone)",
}


def markdown(entries: Sequence[Mapping[str, Any]]) -> str:
    """The page. It holds nothing that a run changes: no counts, no examples, no dates."""
    return "\n".join(_lines(entries)) + "\n"


def _lines(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "# Data dictionary"
    yield ""
    yield (
        "Generated from the models by `python -m flows catalog --write`: change a model's file, then run it "
        "again. One table with examples of its values: `python -m flows catalog TABLE`; by words: `python -m "
        "flows catalog --search WORDS`; the way of a column: `python -m flows lineage TABLE.COLUMN`."
    )
    yield ""
    for layer, title in _CHAPTERS.items():
        names = [entry["table"] for entry in entries if entry["layer"] == layer]
        yield f"- {title}: {', '.join(f'[{name}](#{_anchor(name)})' for name in names)}"
    for layer, title in _CHAPTERS.items():
        yield ""
        yield f"## {title}"
        for entry in entries:
            if entry["layer"] == layer:
                yield from _entry(entry)


def _entry(entry: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"### {entry['table']}"
    yield ""
    yield _cell(entry["description"])
    yield ""
    for title, value in facts(entry).items():
        yield f"- {title}: {_code(value) if title in _NAMES else value}"
    yield ""
    yield "| column | type | what it is | made of |"
    yield "|---|---|---|---|"
    for column in entry["columns"]:
        personal = " *(personal)*" if column["pii"] else ""
        how = ", ".join(f"{_marked(origin)} ({kind})" for origin, kind in made(column))
        type_ = f"{column['type']}{'' if column['nullable'] else ' not null'}"
        yield f"| `{column['name']}` | {_cell(type_)} | {_cell(column['description'])}{personal} | {how} |"
    if entry["rules"]:
        yield ""
        claims = (f"{_cell(rule['claim'])} ({rule['kind']}, {rule['severity']})" for rule in entry["rules"])
        yield f"Held to: {'; '.join(claims)}."


_NAMES = {"Key", "Sources", "Made of", "Read by", "Personal data", "File"}


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _marked(origin: str) -> str:
    *words, name = origin.rsplit(" ", 1)
    return " ".join([*words, f"`{name}`"])


def _cell(text: str) -> str:
    """A text on one line, in a table or out of it, as it was written; what stands between backticks is code,
    in which only a bar means something.
    """
    parts = re.split(r"(`[^`]+`)", re.sub(r"\s*[\r\n]+\s*", " ", text))
    return "".join(
        part.replace("|", "\\|") if number % 2 else _MEANS_SOMETHING.sub(_escaped, part)
        for number, part in enumerate(parts)
    )


_MEANS_SOMETHING = re.compile(r"[\\`*<|]|~(?=~)|(?<![^\W_])_|\[(?=[^\]]*\]\()|&(?=#?\w+;)")


def _escaped(found: re.Match[str]) -> str:
    return {"<": "&lt;", "&": "&amp;"}.get(found.group(), f"\\{found.group()}")


def _anchor(title: str) -> str:
    """As GitHub makes it: without what is no letter, digit, `_` or `-`."""
    return title.replace(".", "")
