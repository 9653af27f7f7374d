"""`python -m flows catalog`: what tables and columns mean, where they come from, who answers for them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import quality
from flows.errors import FlowsError
from flows.examples import examples
from flows.lineage import graph
from transforms import dictionary, registry
from transforms.contract import Layer
from transforms.lineage_steps import ROWS

PAGE = Path(__file__).parents[1] / "docs" / "dictionary.md"
"""The dictionary as a page, generated and committed."""
_MOST_HITS = 40


def entries() -> list[dict[str, Any]]:
    """The whole dictionary: tables, views, charts, with all the rules that they are held to."""
    return dictionary.entries(
        graph(),
        registry.default(),
        lambda table: ((rule, quality.describe(rule)) for rule in quality.all_rules(table)),
    )


def command(arguments: argparse.Namespace) -> int:
    """Show one table or all, search, or bring the committed page up to date. Raises ContractError for an
    unknown name.
    """
    if arguments.write or arguments.check:
        return _page(write=arguments.write)
    known = entries()
    if arguments.table is not None:
        name = graph().find(arguments.table).table
        found = [entry for entry in known if entry["table"] == name]
        if not found:
            landed = next(target for origin, target in graph().table_edges if origin == name)
            raise FlowsError(
                f"{name} is the source's own. See what lands of it: python -m flows catalog {landed}"
            )
        shown, missing = examples(found[0])
        if missing:
            print(missing, file=sys.stderr)
        found = [{**found[0], "examples": shown}]
        print(json.dumps(found[0], indent=2) if arguments.json else "\n".join(_entry(found[0])))
        return 0
    if arguments.search is not None:
        hits = dictionary.search(" ".join(arguments.search), known)
        if arguments.json:
            print(
                json.dumps(
                    [{"table": hit.table, "column": hit.column, "text": hit.text} for hit in hits], indent=2
                )
            )
        else:
            print("\n".join(_hits(hits)) or f"Nothing says '{' '.join(arguments.search)}'. Try fewer words.")
        return 0 if hits else 1
    print(json.dumps(known, indent=2) if arguments.json else "\n".join(_list(known)))
    return 0


def _page(*, write: bool) -> int:
    from flows.catalog_page import markdown

    wanted = markdown(entries())
    place = f"{PAGE.parent.name}/{PAGE.name}"
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        print(f"{place} is up to date.")
        return 0
    if not write:
        print(f"{place} is not what the models say; run `python -m flows catalog --write`.")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    print(f"wrote {place}")
    return 0


def _list(known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    width = max(len(entry["table"]) for entry in known)
    layer = None
    for entry in known:
        if entry["layer"] != layer:
            layer = entry["layer"]
            yield layer if layer == Layer.RAW else f"\n{layer}"
        yield f"  {entry['table']:<{width}}  {_short(entry['description'])}"


def _hits(hits: Sequence[dictionary.Hit]) -> Iterator[str]:
    names = [f"{hit.table}.{hit.column}" if hit.column else hit.table for hit in hits[:_MOST_HITS]]
    width = max(map(len, names), default=0)
    for name, hit in zip(names, hits, strict=False):
        yield f"{name:<{width}}  {_short(hit.text)}".rstrip()
    if len(hits) > _MOST_HITS:
        yield f"… and {len(hits) - _MOST_HITS} more: search with more words."


def _entry(entry: Mapping[str, Any]) -> Iterator[str]:
    yield f"{entry['table']}  ({entry['layer']})"
    yield entry["description"]
    yield ""
    for title, value in facts(entry).items():
        yield f"{title + ':':<14} {value}"
    yield ""
    width = max(len(column["name"]) for column in entry["columns"])
    kinds = max(len(column["type"]) for column in entry["columns"])
    for column in entry["columns"]:
        marks = "".join(
            (" · never null" if not column["nullable"] else "", " · personal" if column["pii"] else "")
        )
        yield f"{column['name']:<{width}}  {column['type']:<{kinds}}  {column['description']}{marks}".rstrip()
        margin = " " * (width + kinds + 4)
        if column["made"]:
            yield margin + "from " + ", ".join(f"{origin} ({kind})" for origin, kind in made(column))
        if entry["examples"].get(column["name"]):
            yield margin + "e.g. " + ", ".join(entry["examples"][column["name"]])
    if entry["rules"]:
        yield ""
        yield "held to:"
        yield from (f"  {rule['claim']}  ({rule['kind']}, {rule['severity']})" for rule in entry["rules"])


def made(column: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a column is made of, and how, in words."""
    for origin, kind in column["made"].items():
        table = origin.removesuffix(f".{ROWS}")
        yield (origin if table == origin else f"rows of {table}"), kind


def facts(entry: Mapping[str, Any]) -> dict[str, str]:
    """What there is to say of a table as a whole, by title."""
    partition = entry["partition"]
    said = {
        "Key": ", ".join(entry["key"]),
        "Owner": entry["owner"],
        "Sources": ", ".join(entry["sources"]),
        "Made of": ", ".join(entry["upstreams"]),
        "Read by": ", ".join(entry["downstreams"]),
        "Fresh within": _span(entry["freshness_seconds"]),
        "Partitions": f"by {partition['by']}, every {partition['every']}" if partition else "",
        "Written by": (entry["write"] or "").replace("_", " "),
        "Kept": f"{entry['retention_days']:,} days" if entry["retention_days"] else "",
        "Personal data": ", ".join(entry["personal"]),
        "File": entry["file"] or "",
    }
    return {title: value for title, value in said.items() if value}


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for length, word in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= length and seconds % length == 0:
            number = int(seconds // length)
            return f"{number} {word}{'' if number == 1 else 's'}"
    return f"{seconds} seconds"


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99].rstrip()}…"
