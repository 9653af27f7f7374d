"""What the pages of the documentation have one do, done literally on the generated company."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, ROOT, checklist, commands, files, matches, section
from tests.flows.company import Done, Place
from tests.flows.extract.crm import KEY, Crm, deal

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


def _project(folder: Path, added: Mapping[str, str]) -> Path:
    """A copy of the project with more files."""
    project = folder / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".*", "__pycache__", "lake"), symlinks=True)
    for path, text in added.items():
        (project / path).write_text(text, encoding="utf-8")
    return project


def test_a_table_is_added_by_what_the_pages_say_and_nothing_else(copy: Place, tmp_path: Path) -> None:
    readme = section((ROOT / "README.md").read_text(encoding="utf-8"), "Add a table")
    added = files(readme) | files((ROOT / "docs/add-a-table.md").read_text(encoding="utf-8"))
    names = {Path(path).stem for path in added}
    assert names == {"mart_daily_signups", "mart_order_gaps"}

    project = _project(tmp_path, added)

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


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_further_api_is_read_by_what_the_page_says_and_nothing_else(
    copy: Place, crm: Crm, tmp_path: Path
) -> None:
    page = files((ROOT / "docs/connect.md").read_text(encoding="utf-8"))
    assert {Path(path).stem for path in page} == {"crm", "stg_crm__deals"}
    project = _project(tmp_path, page)

    def python(*words: str, code: int = 0) -> str:
        done = copy.python(project, *words)
        assert done.code == code, done.said
        assert KEY not in done.said
        return done.said

    deals = "select deal_id, stage, amount, created_at::date from stg_crm__deals order by 1 limit 2"
    cases = [f"tests/transforms/{file}" for file in ("test_given_expect.py", "test_registry.py")]
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", *cases)
    python("-m", "flows", "catalog", "--write")
    assert "ANALYTICS_CRM_URL is not set" in python("-m", "flows", code=2)
    crm.put(250)
    copy.environment |= {"ANALYTICS_CRM_URL": crm.url, "ANALYTICS_CRM_KEY": KEY}
    assert "ok    CRM " in python("-m", "flows", "doctor")
    python("-m", "flows", "run", "--select", "stg_crm__deals")
    assert {sent.headers["X-Api-Key"] for sent in crm.sent} == {KEY}
    assert "d00001" in python("-m", "flows", "lake", deals)
    crm.deals[1] = deal(1, stage="won", updated_at=f"{datetime.now(UTC):%FT%TZ}")
    crm.otherwise = lambda: {"data": {"items": crm.deals[1:2]}, "meta": {"total": 1}}
    python("-m", "flows", "run", "--select", "stg_crm__deals")
    rows = python("-m", "flows", "lake", deals)
    assert "won" in rows
    assert "d00000" in rows
