"""JSON text in a Polars model, read as leniently as `from_json` reads it in a model of SQL."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


def decoded(text: pl.Expr, shape: pl.DataType) -> pl.Expr:
    """Each text as `shape`; null where it is no JSON of this shape.

    Polars' own `json_decode` fails for all rows where one has another shape, and names that row's content.
    """
    return text.map_batches(partial(_decoded, shape=shape), return_dtype=shape, is_elementwise=True)


def _decoded(texts: pl.Series, shape: pl.DataType) -> pl.Series:
    """Halves that fail are halved again, so that a few odd texts cost a few more calls."""
    import polars as pl
    from polars.exceptions import PolarsError

    try:
        return texts.str.json_decode(shape)
    except PolarsError:
        if len(texts) == 1:
            return pl.Series(texts.name, [None], dtype=shape)
        half = len(texts) // 2
        return pl.concat([_decoded(texts[:half], shape), _decoded(texts[half:], shape)])
