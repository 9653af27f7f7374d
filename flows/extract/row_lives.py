"""What a table's rows were before a change: in what was landed, and in the records before it.

Tables of the connection that these read and write: `parsed`, the records of one landing; `base`, of each key
that is asked for what was landed of it last; `strayed`, the keys whose updates may have changed their window;
`filled`, the last known values for records that left some out; `emptied`, deletes that no record of their own
tells, before (-1) or behind (1) a record.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from duckdb import DuckDBPyConnection

from transforms import changes
from transforms.change_values import encoded, is_unavailable
from transforms.contract import Column
from transforms.engine import quoted, text_literal
from transforms.entities import SourceEntity

KEYED = "('c', 'r', 'u', 'd')"
"""Operations that are about one row, as SQL."""
LIVE = "('c', 'r', 'u')"
"""Those after which the row is there."""


def applied(prefix: str = "") -> str:
    """SQL: whether a record changes a row."""
    return f"{prefix}_ignored is null and {prefix}_problem is null"


class Lives:
    """The lives of one table's rows. `landed` and `present` are as `ChangeLog` has them."""

    def __init__(
        self,
        entity: SourceEntity,
        connection: DuckDBPyConnection,
        landed: str | None,
        present: Collection[str],
    ) -> None:
        self._entity = entity
        self._connection = connection
        self._landed = landed
        self._present = present
        self._part = entity.partition.by if entity.partition else None
        if self._part in entity.key:
            self._part = None

    def remember(self, toasted: Sequence[Column]) -> None:
        """`base`: of each key that is asked for, what was landed of it last while it was there."""
        asked = []
        if self._part:
            self._find_strayed()
            asked.append(f"select _key from parsed where {applied()} and _change in ('d', 'r')")
            asked.append("select _key from strayed where is_older")
        if toasted:
            missing = " or ".join(is_unavailable(f"after.{quoted(column.name)}") for column in toasted)
            asked.append(f"select _key from parsed where {applied()} and _change in {LIVE} and ({missing})")
            asked.append(f"select _old from parsed where {applied()} and is_moved")
        self._recall("base", asked, toasted)

    def _find_strayed(self) -> None:
        """`strayed`: of rows that were updated, those that do not stand everywhere where they were landed.

        Of most of them the same time was landed: whoever knows key and time need not look at other times,
        since a row that leaves one leaves a delete there. `is_older`: it was there before these records.
        """
        self._run(
            "create or replace temp table updated as select _key, arg_min(_part, kafka_offset) as _part, "
            "arg_min(_change, kafka_offset) = 'u' as is_older, min(_part) <> max(_part) as is_moved "
            f"from parsed where {applied()} and _change in {LIVE} "
            "and _key in (select _key from parsed where _change = 'u') group by _key"
        )
        stands = "select _key from updated where false"
        if self._landed is not None and self._part:
            same = " and ".join(
                [
                    *(f"landed.{quoted(n)} = updated._key.{quoted(n)}" for n in self._entity.key),
                    f"landed.{quoted(self._part)} = updated._part",
                ]
            )
            stands = (
                f"select _key from {self._landed} as landed join updated on {same} where is_older "
                f"and {self._shown()} group by _key having arg_max(_op, row(_landed_at, _seq)) = 'r'"
            )
        self._run(
            "create or replace temp table strayed as select _key, is_older from updated where is_moved "
            f"or (is_older and _key not in ({stands}))"
        )

    def _shown(self) -> str:
        """SQL: whether a row of what was landed is one that models see."""
        return changes.VISIBLE if changes.is_of_changes(self._present) else "true"

    def _recall(self, name: str, asked: Sequence[str], toasted: Sequence[Column]) -> None:
        """A table with `_key`, `_values` (texts of these columns) and `_part` as they were landed last."""
        given = ", ".join(f"{quoted(c.name)} := {self._landed_text(c)}" for c in toasted)
        values = f"struct_pack({given})" if toasted else "null::integer"
        part = quoted(self._part) if self._part else "null::integer"
        if self._landed is None or not asked:
            nothing = ", ".join(f"{quoted(c.name)} := null::varchar" for c in toasted)
            values = f"struct_pack({nothing})" if toasted else "null::integer"
            self._run(
                f"create or replace temp table {name} as select _key, {values} as _values, _part "
                "from parsed where false"
            )
            return
        self._run(
            f"create or replace temp table asked as select distinct _key from ({' union all '.join(asked)})"
        )
        keys = " and ".join(f"landed.{quoted(n)} = asked._key.{quoted(n)}" for n in self._entity.key)
        wanted = f"select landed.* from {self._landed} as landed semi join asked on {keys} where _op = 'r'"
        if changes.is_of_changes(self._present):
            wanted = changes.texts(self._entity, wanted, "_ignored is null")
        packed = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in self._entity.key)
        self._run(
            f"create or replace temp table {name} as select _key, newest._values as _values, "
            f"_part from (select struct_pack({packed}) as _key, "
            f"arg_max({{'_values': {values}}}, row(_landed_at, _seq)) as newest, "
            f"coalesce(arg_max({part}, row(_landed_at, _seq)) filter (where {self._shown()}), "
            f"arg_max({part}, row(_landed_at, _seq))) as _part "
            f"from ({wanted}) group by 1)"
        )

    def _landed_text(self, column: Column) -> str:
        name = quoted(column.name)
        if not changes.is_of_changes(self._present):
            return encoded(column, changes.as_read(column, self._present) or "null")
        read = changes.as_read(column, self._present)
        if not read:
            return f"_texts.{name}"
        return f"case when _change is null then {encoded(column, read)} else _texts.{name} end"

    def fill(self, toasted: Sequence[Column]) -> None:
        """Carry the last known value to where it was not sent, along a row's whole life, key changes
        included.

        A row's life is cut into segments, one for each time a key is created. A segment that begins with a
        key change goes on where the old key's segment ended; the others begin with a whole row.
        """
        self._run(
            "create or replace temp table lives as "
            "select kafka_offset as ord, _key, _old, is_moved, _change, after, "
            f" count(*) filter (where _change in ('c', 'r')) over (partition by _key order by "
            f"kafka_offset) as number from parsed where {applied()} and _change in {KEYED}"
        )
        self._run(
            "create or replace temp table moves as select moved._key, moved.number, moved._old as from_key, "
            "coalesce(before.number, 0) as from_number from (from lives where is_moved and _change = 'c') "
            "as moved asof left join lives as before on before._key = moved._old and before.ord < moved.ord"
        )
        self._run(
            "create or replace temp table roots as with recursive follow as ("
            "select _key, number, _key as root_key, number as root_number from ("
            "select _key, number from lives union select from_key, from_number from moves) as every "
            "anti join moves using (_key, number) union all "
            "select moves._key, moves.number, follow.root_key, follow.root_number "
            "from moves join follow on follow._key = moves.from_key and follow.number = moves.from_number) "
            "select * from follow"
        )
        names = [quoted(column.name) for column in toasted]
        own = ", ".join(
            f"case when _change <> 'd' and not coalesce({is_unavailable(f'after.{name}')}, false) "
            f"then {{'v': after.{name}}} end as {name}"
            for name in names
        )
        before = ", ".join(f"{{'v': _values.{name}}} as {name}" for name in names)
        last = ", ".join(f"last_value({name} ignore nulls) over life as {name}" for name in names)
        known = ", ".join(f"{name} := {name}.v" for name in names)
        is_known = ", ".join(f"{name} := {name} is not null" for name in names)
        self._run(
            f"create or replace temp table filled as select ord, struct_pack({known}) as known, "
            f"struct_pack({is_known}) as is_known from (select ord, {last} from ("
            f"select ord, root_key, root_number, {own} from lives join roots using (_key, number) union all "
            f"select -1, _key, 0, {before} from base) window life as (partition by root_key, root_number "
            "order by ord rows between unbounded preceding and 1 preceding)) where ord >= 0"
        )

    def live(self) -> str:
        """SQL: `_key` and `_part` of every row that was there according to what was landed."""
        part = quoted(self._part) if self._part else "null"
        packed = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in self._entity.key)
        if self._landed is None:
            return "select _key, _part from parsed where false"
        return (
            f"select _key, newest.part as _part from (select struct_pack({packed}) as _key, "
            f"arg_max({{'op': _op, 'part': {part}}}, row(_landed_at, _seq)) as newest "
            f"from {self._landed} where {self._shown()} group by 1) where newest.op = 'r'"
        )

    # --------------------------------------------------------------------------------- deletes of many rows

    def empty_truncated(self) -> None:
        """`emptied`: a delete for each row that was there when its table was truncated."""
        self._run(
            "create or replace temp table emptied as select kafka_offset, _key, _part, 1 as sub "
            "from parsed where false"
        )
        if not self._connection.execute("from parsed where _ignored = 'truncate' limit 1").fetchall():
            return
        self._run(
            "create or replace temp table spans as select kafka_offset, _change, _key, _part, _ignored, "
            "_problem, count(*) filter (where _ignored = 'truncate') over (order by kafka_offset) as span "
            "from parsed"
        )
        self._run(
            "insert into emptied select ends.kafka_offset, there._key, there.newest.part, 1 from ("
            "select span, _key, arg_max({'is_live': is_live, 'part': _part}, ord) as newest from ("
            f"select span, _key, _change in {LIVE} as is_live, _part, kafka_offset as ord from spans "
            f"where {applied()} and _change in {KEYED} union all "
            f"select 0, _key, true, _part, -1 from ({self.live()})) group by span, _key) as there "
            "join (select kafka_offset, span - 1 as span from spans where _ignored = 'truncate') as ends "
            "on ends.span = there.span where there.newest.is_live"
        )

    def leave_old_keys(self) -> None:
        """Where the declared key is not the source's, a change of it is told as an update: the row of the key
        before is gone.
        """
        self._run(
            "insert into emptied "
            "select moved.kafka_offset, moved._before, moved._part, 1 from parsed as moved "
            f"where {applied('moved.')} and moved._change = 'u' "
            "and moved.has_before and moved._before is distinct from moved._key"
        )

    def place_deletes(self) -> None:
        """Give each delete the window of the row that it ends, since its own image may be invented; and let
        a row that is in another window from now on be deleted in the one before.
        """
        self._run(
            "create or replace temp table placed as "
            "select kafka_offset, coalesce(earlier, base._part) as part "
            "from (select kafka_offset, _key, _change, last_value(_part ignore nulls) over ("
            "partition by _key order by kafka_offset rows between unbounded preceding and 1 preceding) "
            f"as earlier from parsed where {applied()} and _change in {KEYED} and _key in ("
            "select _key from parsed where _change in ('d', 'r') union all select _key from strayed)) "
            "left join base using (_key) where _change in ('d', 'r', 'u')"
        )
        self._run(
            "update parsed set _part = placed.part, _ignored = case when placed.part is null then "
            "'no such row' end from placed where placed.kafka_offset = parsed.kafka_offset and _change = 'd'"
        )
        # By an update, or made anew while nobody looked: then a snapshot shows it.
        self._run(
            "insert into emptied select kafka_offset, _key, placed.part, -1 from parsed "
            "join placed using (kafka_offset) "
            f"where _change in ('r', 'u') and placed.part <> _part and {applied()}"
        )

    def lose_what_is_gone(self, keys: str) -> None:
        """Add a delete for each row that is there in the end, and whose key is not in the table `keys`."""
        same = " and ".join(f"there._key.{quoted(n)} = source.{quoted(n)}" for n in self._entity.key)
        self._run(
            "insert into emptied select null, there._key, there.newest.part, 1 from (select _key, "
            "arg_max({'is_live': is_live, 'part': _part}, ord) as newest from ("
            f"select _key, _change in {LIVE} as is_live, _part, kafka_offset as ord from parsed "
            f"where {applied()} and _change in {KEYED} union all "
            f"select _key, true, _part, -1 from ({self.live()})) group by _key) as there "
            f"anti join {keys} as source on {same} where there.newest.is_live"
        )

    # ---------------------------------------------------------------------------------------- what a row was

    def keep_last_values(self) -> None:
        """`_filled` of every delete, in `parsed` and `emptied`: what its row was, as JSON of texts."""
        columns = self._entity.columns
        ends = f"select kafka_offset as ord, _key from parsed where {applied()} and _change = 'd'"
        last = "coalesce(kafka_offset, 9223372036854775807)"
        self._run(f"create or replace temp table ends as {ends} union select {last}, _key from emptied")
        self._recall("ended", ["select _key from ends"], columns)
        shape = text_literal(json.dumps(changes.fields(columns)))
        whole = ", ".join(
            f"{name} := case when {is_unavailable(f'after.{name}')} then given.{name} else after.{name} end"
            for name in (quoted(column.name) for column in columns)
        )
        self._run(
            f"create or replace temp table lasting as select ends.ord, ends._key, "
            "to_json(coalesce(whole._values, ended._values))::varchar as was from ends asof left join ("
            f"select kafka_offset as ord, _key, struct_pack({whole}) as _values from ("
            f"select *, from_json(_filled, {shape}) as given from parsed where {applied()} "
            f"and _change in {LIVE})) as whole on whole._key = ends._key and whole.ord < ends.ord "
            "left join ended on ended._key = ends._key"
        )
        self._run("alter table emptied add column _filled varchar")
        for table, place in (("parsed", "kafka_offset"), ("emptied", last)):
            only = f"and {applied()} and _change = 'd'" if table == "parsed" else ""
            self._run(
                f"update {table} set _filled = lasting.was from lasting "
                f"where lasting.ord = {place} and lasting._key = {table}._key {only}"
            )

    def _run(self, query: str) -> None:
        self._connection.execute(query).fetchall()
