"""The README's table of measurements, written from results.json so that it says what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "README.md"
_BEGIN, _END = "<!-- measured -->\n", "<!-- end -->\n"


def table(results: Mapping[str, Any]) -> str:
    """Markdown: one row for each claim, in the order of the file, with the target and whether it is met."""
    rows = [
        f"| {result['claim']} | {result['value']:.2f} {result['unit']} | {result['target']} {result['unit']} "
        f"| {'yes' if result['holds'] else '**no**'} |"
        for benchmark in results.values()
        for result in benchmark["results"]
    ]
    return "\n".join(["| measured | value | target | met |", "|---|---:|---:|:---:|", *rows]) + "\n"


def shown() -> str:
    """What stands in the README now."""
    text = README.read_text(encoding="utf-8")
    return text[text.index(_BEGIN) + len(_BEGIN) : text.index(_END)]


def write(results: Mapping[str, Any]) -> None:
    """Put the table of these results into the README."""
    text = README.read_text(encoding="utf-8")
    begin, end = text.index(_BEGIN) + len(_BEGIN), text.index(_END)
    README.write_text(text[:begin] + table(results) + text[end:], encoding="utf-8")
