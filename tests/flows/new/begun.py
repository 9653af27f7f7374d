"""A copy of the project's models, in which `new` writes and what it wrote is tried."""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.__main__ import parser
from flows.new.command import drafted
from flows.new.draft import PACKAGE, Draft, Project
from tests.transforms.given_expect import cases, difference
from transforms import engine, registry
from transforms.registry import Registry


class Begun:
    """The copy in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.project = Project(folder / "transforms", folder / "tests" / "transforms")
        shutil.copytree(PACKAGE, self.project.models, ignore=shutil.ignore_patterns("__pycache__"))
        self.draft = Draft(self.project)

    def new(self, *words: str) -> Registry:
        """`python -m flows new WORDS`; the project as it is then."""
        self.draft = drafted(parser().parse_args(["new", *words]), self.project)
        self.draft.write()
        return registry.read(self.project.models, (*registry.declared_entities(), *self.draft.entities))

    def differences(self, known: Registry) -> list[str]:
        """What the new models give otherwise than the rows that were written with them say."""
        found = []
        for path in self.draft.new:
            for one in cases(path) if path.suffix == ".yaml" else ():
                with engine.connect() as connection:
                    found.append(difference(one, connection, known))
        assert found
        return [one for one in found if one]

    def files(self) -> dict[Path, str]:
        """Every file of the copy with its text."""
        root = self.project.models.parent
        return {
            path.relative_to(root): path.read_text(encoding="utf-8")
            for path in root.rglob("*")
            if path.suffix in {".sql", ".py", ".yaml"}
        }
