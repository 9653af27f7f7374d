"""What the pages of the documentation have one do, done literally on the generated company."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, ROOT, checklist, commands, files, matches, section
from tests.flows.company import Done, Place

pytestmark = pytest.mark.full
_JUDGES = {"monitor", "sla", "tests.benchmarks"}
"""They end with 1 when something is not well, having said all."""


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(commands(page.read_text(encoding="utf-8")))],
    ids=lambda page: page.name,
)
def test_a_command_prints_what_its_page_shows(copy: Place, page: Path) -> None:
    for command in commands(page.read_text(encoding="utf-8")):
        program, *words = shlex.split(command.words)
        assert [program, *words[:2]] == [".venv/bin/python", "-m", "flows"], command.words
        done = copy.run(*words[2:])
        assert matches(command.prints, done.out), f"$ {command.words}\n{done.said}"


def test_each_item_of_the_handoffs_checklist_is_shown_by_its_command(copy: Place) -> None:
    items = list(checklist((ROOT / "docs/handoff.md").read_text(encoding="utf-8")))
    assert len(items) >= 11
    ran: dict[str, Done] = {}
    for item in items:
        program, *words = shlex.split(item.words)
        assert program == ".venv/bin/python"
        if item.words not in ran:
            is_flows = words[:2] == ["-m", "flows"]
            ran[item.words] = copy.run(*words[2:]) if is_flows else copy.python(ROOT, *words)
        done = ran[item.words]
        assert done.code == 0 or _JUDGES & {*words}, f"$ {item.words}\n{done.said}"
        assert matches(item.prints, done.out), f"$ {item.words}\n{done.said}"


def test_a_table_is_added_by_what_the_pages_say_and_nothing_else(copy: Place, tmp_path: Path) -> None:
    readme = section((ROOT / "README.md").read_text(encoding="utf-8"), "Add a table")
    added = files(readme) | files((ROOT / "docs/add-a-table.md").read_text(encoding="utf-8"))
    names = {Path(path).stem for path in added}
    assert names == {"mart_daily_signups", "mart_order_gaps"}

    project = tmp_path / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".*", "__pycache__", "lake"), symlinks=True)
    for path, text in added.items():
        (project / path).write_text(text, encoding="utf-8")

    def python(*words: str) -> None:
        done = copy.python(project, *words)
        assert done.code == 0, done.said

    python("-m", "warehouse_ddl")
    cases = [f"tests/transforms/{file}" for file in ("test_given_expect.py", "test_registry.py")]
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", *cases)
    python("-m", "flows", "run", "--select", "mart_daily_signups", "--select", "mart_order_gaps")
    for name in names:
        assert copy.value(f"select count(*) from analytics.{name}") > 0
        assert copy.value("select obj_description(%s::regclass)", f"analytics.{name}")
