"""What `new` writes: all of it or nothing, and only what the project can read."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import transforms
from flows.declaration import in_sql, spelled
from flows.errors import FlowsError
from transforms import registry
from transforms.contract import Column, Layer
from transforms.entities import SourceEntity

_LINE = 110
PACKAGE = Path(transforms.__file__).parent


@dataclass(frozen=True)
class Project:
    """Where the models stand, and the rows that show what they promise."""

    models: Path = PACKAGE
    cases: Path = PACKAGE.parent / "tests" / "transforms"

    def model(self, layer: Layer, name: str) -> Path:
        """The file of a SQL model."""
        return self.models / layer.value / f"{name}.sql"

    def rows(self, layer: Layer, name: str) -> Path:
        """The file of its given/expect cases."""
        return self.cases / layer.value / f"{name}.yaml"

    def declarations(self, source: str) -> Path:
        """The file that declares what is read from a source."""
        return self.models / "sources" / f"{source}.py"


@dataclass
class Draft:
    """Texts that are to be written; nothing is until `write`."""

    project: Project
    new: dict[Path, str] = field(default_factory=dict)
    changed: dict[Path, str] = field(default_factory=dict)
    entities: Sequence[SourceEntity] = ()
    """What is declared besides."""
    next: list[str] = field(default_factory=list)
    """What is to be looked at and done then, a sentence each."""

    def write(self) -> list[str]:
        """Write all files; returns what was written, as lines. Raises FlowsError when one is there already,
        ContractError when the project could not be read with them: they are gone again then.
        """
        there = [path for path in self.new if path.exists()]
        if there:
            raise FlowsError(
                f"{self._place(there[0])} is there already; nothing was written. Choose another name, or "
                "take that file away."
            )
        before = {path: path.read_text(encoding="utf-8") for path in self.changed}
        try:
            for path, text in (*self.new.items(), *self.changed.items()):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            registry.read(self.project.models, (*registry.declared_entities(), *self.entities))
        except BaseException:
            for path in self.new:
                path.unlink(missing_ok=True)
            for path, text in before.items():
                path.write_text(text, encoding="utf-8")
            raise
        return [
            *(f"{self._place(path)}: changed" for path in self.changed),
            *(f"{self._place(path)}: new" for path in self.new),
        ]

    def _place(self, path: Path) -> str:
        root = self.project.models.parent
        return str(path.relative_to(root) if path.is_relative_to(root) else path)


def documented(column: Column, source: str, otherwise: str) -> str:
    """What a column means: in the words of the staged columns of the same source that are called the same,
    where several are and all say the same. The `status` of an order says nothing of another table's.
    """
    if column.description:
        return " ".join(column.description.split())
    said = [
        known.description
        for table in registry.build_order()
        if table.name.startswith(f"stg_{source}__")
        for known in table.columns
        if known.name == column.name and known.description and not known.name.endswith("_id")
    ]
    return said[0] if len(said) > 1 and len(set(said)) == 1 else otherwise


def call(name: str, words: Sequence[str]) -> str:
    """A call as the formatter leaves it, where it stands indented by four: on one line if it fits."""
    line = f"{name}({', '.join(words)})"
    if "\n" not in line and len(line) + 5 <= _LINE:
        return line
    inside = textwrap.indent("".join(f"{word},\n" for word in words), "    ")
    return f"{name}(\n{inside})"


def item(expression: str, kind: str, name: str, documentation: str) -> str:
    """An item of the final select, without its comma: what a column is, and after `--` what it means."""
    return f"    {expression}::{spelled(kind)} as {in_sql(name)}, -- {documentation}"


def select_list(items: Sequence[str]) -> str:
    """Items as they stand in a select: the last one without a comma."""
    *others, last = items
    code, _, comment = last.rpartition(", -- ")
    return "\n".join([*others, f"{code} -- {comment}"])
