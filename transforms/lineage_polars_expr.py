"""What an expression in a Polars plan reads, and whether it adds up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transforms.lineage_steps import Kind

_WRAPS = {"Cast": "expr", "RenameAlias": "expr"}
"""What leaves a value as it is; the declared types tell that it was cast."""


def kind_of(expression: Any, *, adds_up: bool) -> Kind:
    """How an expression makes its column; `adds_up`: it stands where many rows become one."""
    while isinstance(expression, dict):
        word, body = next(iter(expression.items()))
        if word == "Alias":
            expression = body[0]
        elif word == "KeepName":
            expression = body
        elif word in _WRAPS:
            expression = body[_WRAPS[word]]
        else:
            break
    if adds_up or not {"Agg", "Len"}.isdisjoint(_words(expression)):
        return Kind.AGGREGATE
    is_one = isinstance(expression, dict) and not expression.keys().isdisjoint({"Column", "Selector"})
    return Kind.PASS if is_one else Kind.EXPRESSION


def is_counted(expression: Any) -> bool:
    """Whether it counts rows, over a window too."""
    return "Len" in _words(expression, within_windows=True)


def read(expression: Any) -> Iterator[str]:
    """Names of the columns that an expression names, each of which stands for itself."""
    for word, value in _pairs(expression):
        if word == "Column" and isinstance(value, str):
            yield value


def selectors(expression: Any) -> Iterator[Any]:
    """The parts of an expression that stand for several columns."""
    for word, value in _pairs(expression):
        if word == "Selector":
            yield {word: value}


def strings(value: Any) -> Iterator[str]:
    """Every text in a part of a plan."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def _pairs(expression: Any) -> Iterator[tuple[str, Any]]:
    """Every word with what stands under it; what a selector is made of is its own affair."""
    if isinstance(expression, list):
        for part in expression:
            yield from _pairs(part)
    elif isinstance(expression, dict):
        for word, value in expression.items():
            yield word, value
            if word not in {"Column", "Selector", "Literal"}:
                yield from _pairs(value)


def _words(expression: Any, *, within_windows: bool = False) -> Iterator[str]:
    """Names of the operations in an expression; what runs over a window keeps each row."""
    if isinstance(expression, str):
        yield expression
    elif isinstance(expression, list):
        for part in expression:
            yield from _words(part, within_windows=within_windows)
    elif isinstance(expression, dict) and (within_windows or "Over" not in expression):
        for word, value in expression.items():
            yield word
            if word not in {"Column", "Literal", "Selector"}:
                part = value[0] if word == "Alias" else value
                yield from _words(part, within_windows=within_windows)
