"""The SQL files of this folder: `tables/` generated from the models, `bootstrap/` and `views/` written by
hand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transforms import registry as registries
from transforms.contract import Table
from transforms.registry import Registry
from transforms.tokens import scan
from warehouse_ddl.statements import ddl

HERE = Path(__file__).parent
_COMMENT = re.compile(r"comment on (?:materialized view|column) analytics\.([\w.]+) is '(.*)'$", re.DOTALL)


@dataclass(frozen=True)
class View:
    """A materialized view: the statements that make it (with its unique index) and the tables it reads."""

    name: str
    upstreams: tuple[str, ...]
    statements: tuple[str, ...]

    @property
    def query(self) -> str:
        """The statement that makes it, of what it reads."""
        return self.statements[0]

    @property
    def description(self) -> str:
        """What its comment says."""
        return self._comments().get(self.name, "")

    @property
    def documentation(self) -> Mapping[str, str]:
        """What its comments say of columns that it computes; the others mean what they mean upstream."""
        before = f"{self.name}."
        said = self._comments().items()
        return {name.removeprefix(before): text for name, text in said if name.startswith(before)}

    def _comments(self) -> dict[str, str]:
        found = (_COMMENT.match(statement) for statement in self.statements)
        return {told[1]: told[2].replace("''", "'") for told in found if told is not None}

    @property
    def fingerprint(self) -> str:
        """Another one when its file says something else."""
        return hashlib.sha256("\n".join(self.statements).encode()).hexdigest()[:16]


def generated(registry: Registry | None = None) -> Mapping[str, str]:
    """File name → text of every file in tables/, as the models have it now."""
    registry = registry or registries.default()
    return {
        f"{table.name}.sql": table_file(table, registry)
        for table in registry.build_order
        if table.is_published
    }


def table_file(table: Table, registry: Registry | None = None) -> str:
    """The text of one generated file."""
    source = f"transforms/{table.layer.value}/{table.path.name if table.path else table.name}"
    head = f"-- Generated from {source} by `python -m warehouse_ddl`. Change that file, then run it again.\n"
    leaves = ""
    if table.is_partitioned_in_postgres and table.indexes:
        listed = [f"--   {index} ({', '.join(columns)})\n" for index, columns in table.indexes.items()]
        leaves = "".join(
            ["-- Each leaf has these indexes, one that the stream writes into once it is sealed:\n", *listed]
        )
    return head + leaves + "\n" + "".join(f"{statement};\n" for statement in ddl(table, registry))


def write(registry: Registry | None = None, folder: Path = HERE / "tables") -> list[str]:
    """Write every generated file and remove those of tables that are gone; gives what changed."""
    changed = differing(registry, folder)
    wanted = generated(registry)
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


def differing(registry: Registry | None = None, folder: Path = HERE / "tables") -> list[str]:
    """Names of the generated files that are missing, gone or other than the models have it now."""
    wanted = generated(registry)
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.sql")}
    return sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))


def bootstrap() -> list[str]:
    """Statements that make schemas, roles and the ops tables; each may be run again. In order.

    The first file goes on as the role owner; the last statement is the way back.
    """
    return [
        *(
            statement
            for path in sorted((HERE / "bootstrap").glob("*.sql"))
            for statement in statements(path.read_text(encoding="utf-8"))
        ),
        "reset role",
    ]


def bootstrap_fingerprint() -> str:
    """Another one when these statements say something else."""
    return hashlib.sha256("\n".join(bootstrap()).encode()).hexdigest()[:16]


def views() -> tuple[View, ...]:
    """The materialized views, by name."""
    found = []
    for path in sorted((HERE / "views").glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        reads = re.findall(r"\b(?:from|join)\s+analytics\.(\w+)", text, re.IGNORECASE)
        found.append(View(path.stem, tuple(dict.fromkeys(reads)), tuple(statements(text))))
    return tuple(found)


def statements(text: str) -> list[str]:
    """A file's statements, without the semicolons and the comments before them."""
    found: list[str] = []
    begin = position = 0
    for token in scan(text):
        position = text.index(token.text, position) + len(token.text)
        if token.kind == "symbol" and token.text == ";" and token.depth == 0:
            found.append(text[begin : position - 1])
            begin = position
    found.append(text[begin:])
    return [kept for kept in map(_without_leading_comments, found) if kept]


def _without_leading_comments(statement: str) -> str:
    return re.sub(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*", "", statement, flags=re.DOTALL).rstrip()
