"""The rows of lake files as SQL: what counts of each file, or only the rows at some places in it.

A row that no longer counts stays in its file: the manifest names its position (`LakeFile.gone`), and whoever
reads leaves it out. So a late event that takes an older copy's place costs a number, not the day's file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flows.stores.manifest import LakeFile

MAX_GONE = 1_000
"""More rows of one file than this are not masked: the file is written anew without them."""

POSITION = "file_row_number"
"""DuckDB's name for a row's position in its file, counted from 0."""


def counting(files: Sequence[tuple[str, LakeFile]], options: str = "hive_partitioning = false") -> str:
    """What stands after FROM for the rows that count of (path, file) pairs, columns matched by name.

    There must be at least one file. `options` are further ones of read_parquet.
    """
    whole = [path for path, file in files if not file.gone]
    parts = [_whole(whole, options)] if whole else []
    parts += [_except(path, options, file.gone) for path, file in files if file.gone]
    if len(parts) == 1 and whole:
        return parts[0]
    return "(" + " union all by name ".join(f"select * from {part}" for part in parts) + ")"


def whole(paths: Sequence[str]) -> str:
    """What stands after FROM for all rows of files, whether they count or not."""
    return _whole(paths, "hive_partitioning = false")


def numbered(*paths: str, options: str = "hive_partitioning = false") -> str:
    """The same, with the position of each row in its file."""
    listed_paths = ", ".join(map(quoted, paths))
    return (
        f"read_parquet([{listed_paths}], {options}, union_by_name = {str(len(paths) > 1).lower()}, "
        f"{POSITION} = true)"
    )


def positions(of: Iterable[int]) -> str:
    """Positions as an SQL list; as one text, since a list of many constants takes long to be read."""
    return f"'[{listed(of)}]'::bigint[]"


def at(places: Mapping[str, Iterable[int]]) -> str:
    """What stands after FROM for the rows at these positions of these paths; there must be at least one."""
    parts = [
        f"select * exclude ({POSITION}) from {numbered(path)} "
        f"where {POSITION} in (select unnest({positions(of)}))"
        for path, of in places.items()
    ]
    return "(" + " union all by name ".join(parts) + ")"


def _whole(paths: Sequence[str], options: str) -> str:
    return f"read_parquet([{', '.join(map(quoted, paths))}], {options}, union_by_name = true)"


def _except(path: str, options: str, gone: Iterable[int]) -> str:
    rows = numbered(path, options=options)
    is_gone = f"{POSITION} in (select unnest({positions(gone)}))"
    return f"(select * exclude ({POSITION}) from {rows} where not {is_gone})"


def listed(positions: Iterable[int]) -> str:
    """Positions as they stand between the brackets of an SQL list."""
    return ", ".join(str(position) for position in sorted(positions))


def quoted(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"
