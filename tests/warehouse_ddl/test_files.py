"""Generated files follow from the models; the statements of a file are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from transforms import registry
from warehouse_ddl.__main__ import main
from warehouse_ddl.files import bootstrap, differing, generated, statements, views, write


def test_the_committed_files_are_what_the_models_say() -> None:
    assert differing() == [], "run `python -m warehouse_ddl` and commit what it writes"


def test_check_names_what_differs_and_writing_mends_it(tmp_path: Path) -> None:
    write(folder=tmp_path)
    (tmp_path / "fct_events.sql").write_text("-- by hand")
    (tmp_path / "fct_gone.sql").write_text("-- of a table that is gone")
    (tmp_path / "dim_users.sql").unlink()
    assert differing(folder=tmp_path) == ["dim_users.sql", "fct_events.sql", "fct_gone.sql"]
    write(folder=tmp_path)
    assert differing(folder=tmp_path) == []
    assert not (tmp_path / "fct_gone.sql").exists()


def test_the_command_says_which_files_it_wrote_and_which_it_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder=tmp_path)
    (tmp_path / "fct_events.sql").write_text("-- by hand")
    (tmp_path / "fct_gone.sql").write_text("-- of a table that is gone")
    assert main([], tmp_path) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == ["wrote warehouse_ddl/tables/fct_events.sql", "removed warehouse_ddl/tables/fct_gone.sql"]


def test_the_command_says_that_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert "up to date" in capsys.readouterr().out


def test_every_published_model_has_a_file_and_staging_has_none() -> None:
    names = {name.removesuffix(".sql") for name in generated()}
    assert names == {table.name for table in registry.build_order() if table.is_published}


def test_statements_end_at_semicolons_that_are_code() -> None:
    text = """
    -- first; a comment
    create table a (b text default ';');
    do $$ begin perform 1; end $$; -- trailing; comment
    /* another; */ comment on table a is 'it''s; a'
    """
    assert statements(text) == [
        "create table a (b text default ';')",
        "do $$ begin perform 1; end $$",
        "comment on table a is 'it''s; a'",
    ]


def test_bootstrap_makes_schemas_before_tables() -> None:
    found = bootstrap()
    schemas = [number for number, statement in enumerate(found) if "create schema" in statement]
    tables = [number for number, statement in enumerate(found) if statement.startswith("create table")]
    assert max(schemas) < min(tables)


def test_views_read_marts_and_never_a_fact() -> None:
    found = {view.name: view for view in views()}
    assert set(found) == {"mv_daily_metrics", "mv_daily_revenue", "mv_user_activity"}
    for view in found.values():
        assert view.upstreams
        assert all(name.startswith("mart_") for name in view.upstreams), view.name
        assert any("unique index" in statement for statement in view.statements), view.name
