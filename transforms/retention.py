"""Which `retention` a source entity may declare, so that nothing is ever built of less than it once was.

Raw that is past its retention goes for good (flows.maintenance.letting_go). A table made of it keeps the
windows that it has, and never builds one anew that is past its own retention. So that one has to be the
shorter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

from transforms.contract import ContractError, Table
from transforms.entities import Postgres, SourceEntity

_LONGEST = {"day": timedelta(days=1), "month": timedelta(days=31)}
_DAY = timedelta(days=1)


def check(models: Iterable[Table], entities: Mapping[str, SourceEntity]) -> None:
    """Raise ContractError for a retention of raw under which a table could not be built anew."""
    known = list(models)
    for name, entity in entities.items():
        if entity.retention is None:
            continue
        if isinstance(entity.read, Postgres):
            raise ContractError(
                f"{entity.place} can't have a retention: its rows are compared with the application's for as "
                f"long as that has them. Take retention out of its declaration."
            )
        for reader in known:
            if name in reader.upstreams:
                _check_reader(entity, entity.retention, reader)


def _check_reader(entity: SourceEntity, kept: timedelta, reader: Table) -> None:
    out = f"take retention out of the declaration of {entity.place}"
    said = f"{entity.place} keeps {_days(kept)} of raw, and {reader.name}"
    if reader.partition is None or reader.by_key or reader.mentioned_by:
        raise ContractError(
            f"{said} reads all of it: built anew, it would lose what came before. Give {reader.name} a "
            f"partition and no by_key or mentioned_by, or {out}."
        )
    # The oldest window that is built reads from its beginning, and as far before that as its lookback says.
    reach = _LONGEST[reader.partition.every] + reader.lookback
    if reader.retention is None or reader.retention + reach > kept:
        own = _days(reader.retention) if reader.retention is not None else "all windows"
        longest = (kept - reach) // _DAY
        shorter = f"write `retention: {longest} days` or less in the header of {reader.name}, or "
        advice = shorter + out if longest > 0 else out
        raise ContractError(
            f"{said}, which is made of it, keeps {own} and reads {_days(reach)} further back: the oldest of "
            f"them could not be built anew. {advice[0].upper()}{advice[1:]}."
        )


def _days(kept: timedelta) -> str:
    days = -(-kept // _DAY)
    return f"{days:,} days" if days != 1 else "a day"
