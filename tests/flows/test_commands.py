"""What a run says before it begins and at its end: where to look, and which setting leads nowhere."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from flows.commands import where_to_look
from flows.sandbox import ALL, Health, Part, Status
from flows.sandbox.state import Process, Running, new, write
from flows.sandbox.world import hold_to_size, sizes
from flows.sandbox.world.lives import World
from flows.sandbox.world.shape import DAY, Shape
from flows.settings import Settings, SettingsError
from tests.flows.company import ROOT, run_here
from tests.house import House

CANARY = "hunter2-canary-5d1e"


def test_the_password_of_one_s_own_warehouse_is_not_shown_where_the_rest_is_the_sandbox_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", f"postgresql://own:{CANARY}@127.0.0.1:1/warehouse")
    monkeypatch.setenv("ANALYTICS_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("PREFECT_API_URL", f"http://own:{CANARY}@127.0.0.1:1/api")
    said = "\n".join(where_to_look(has_pages=True))
    assert CANARY not in said
    assert "ANALYTICS_WAREHOUSE_DSN" in said
    assert "-m flows sandbox stop" in said  # behind the interpreter, quoted where its path has a space


def test_what_opens_the_lake_works_as_it_stands_wherever_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "o'dd, [a] place"
    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", NOWHERE)
    monkeypatch.setenv("ANALYTICS_LAKE", str(root))
    (opens,) = [line for line in where_to_look(has_pages=False) if line.startswith("  lake")]
    words = shlex.split(opens.partition("   or:")[0])
    assert words[-2:] == ["-init", str(root / "lake.sql")]


@pytest.mark.parametrize("has_pages", [True, False])
def test_the_portal_is_named_where_the_run_has_written_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_pages: bool
) -> None:
    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", NOWHERE)
    monkeypatch.setenv("ANALYTICS_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("ANALYTICS_PORTAL", str(tmp_path / "pages"))
    said = "\n".join(where_to_look(has_pages=has_pages))
    assert ("pages/index.html" in said, "portal --serve" in said) == (has_pages, has_pages)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/api", "nonsense"])
def test_a_server_of_prefect_that_can_not_be_asked_is_told_in_one_sentence(
    tmp_path: Path, address: str
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    nowhere = f"postgresql://own:{CANARY}@127.0.0.1:1/none"
    settings = {"WAREHOUSE_DSN": nowhere, "APP_DSN": nowhere, "KAFKA_BOOTSTRAP": "127.0.0.1:1",
                "STRIPE_URL": "http://127.0.0.1:1", "SENDGRID_URL": "http://127.0.0.1:1"}  # fmt: skip
    environment = {f"ANALYTICS_{name}": value for name, value in settings.items()}
    with temporary_settings({PREFECT_API_URL: address}):
        done = run_here(["run"], tmp_path, environment | {"PREFECT_API_URL": address})
    assert done.code == 2, done.said
    assert "Traceback" not in done.said
    assert "PREFECT_API_URL" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_sandbox_that_can_not_be_where_it_is_named_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = run_here(["sandbox", "start"], tmp_path, {"ANALYTICS_SANDBOX": str(tmp_path / "file" / "sandbox")})
    assert done.code == 2, done.said
    assert "ANALYTICS_SANDBOX" in done.err
    assert len(done.err.strip().splitlines()) == 1


def _world(folder: Path) -> World:
    """A world of scale 0.1 and 10 days, as its file says."""
    shape = Shape(1, 0, **sizes(0.1, 10))
    world = World(folder, shape, 10, (10 * DAY,), (10 * DAY,), {}, done=True)
    folder.mkdir()
    world.save()
    return world


@pytest.mark.parametrize("words", [("--scale", "2"), ("--days", "30"), ("--scale", "0.1", "--days", "11")])
def test_a_world_that_is_there_keeps_its_size_and_says_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    _world(tmp_path / "sandbox")
    done = run_here(["sandbox", "start", *words], tmp_path, {"ANALYTICS_SANDBOX": str(tmp_path / "sandbox")})
    assert done.code == 2, done.said
    assert "--scale 0.1 --days 10" in done.err
    assert "python -m flows sandbox reset" in done.err
    assert [path.name for path in (tmp_path / "sandbox").iterdir()] == ["world.json"]


@pytest.mark.parametrize(
    "words",
    [
        ("--scale", "0"),
        ("--scale", "-1"),
        ("--scale", "nan"),
        ("--scale", "inf"),
        ("--days", "0"),
        ("--days", "1000000"),
    ],
)
def test_a_world_without_days_or_events_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run_here(["sandbox", "start", *words], tmp_path, {"ANALYTICS_SANDBOX": str(tmp_path / "sandbox")})
    assert done.code == 2, done.said
    assert not (tmp_path / "sandbox").exists()


def test_the_size_that_a_world_has_may_be_asked_for_again(tmp_path: Path) -> None:
    _world(tmp_path / "sandbox")
    hold_to_size(tmp_path / "sandbox", 0.1, 10)
    hold_to_size(tmp_path / "sandbox", None, 10)


def test_a_broker_of_one_s_own_without_a_connect_is_told_what_is_missing(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, kafka_bootstrap="127.0.0.1:1", sandbox=tmp_path)
    with pytest.raises(SettingsError, match="ANALYTICS_CONNECT_URL is not set: beside a broker of your own"):
        settings.require("connect_url")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run", "--select", "fct_ordrs"], "fct_ordrs"),
        (["rebuild", "fct_ordrs"], "fct_ordrs"),
        (["backfill", "--from", "2025-10-20", "--to", "2025-10-21", "--select", "fct_ordrs"], "fct_ordrs"),
        (["backfill", "--from", "yesterday", "--to", "today"], "yesterday"),
        (["stream", "--for", "soon"], "soon"),
        (["backfill", "--from", "2025-10-22", "--to", "2025-10-21"], "2025-10-22"),
    ],
)
def test_what_is_typed_wrong_is_told_before_a_service_is_started_for_it(
    tmp_path: Path, words: list[str], named: str
) -> None:
    with mock.patch("flows.commands.ensure_services") as services:
        done = run_here(words, tmp_path, {"ANALYTICS_SANDBOX": str(tmp_path / "sandbox")})
    assert not services.called
    assert done.code == 2, done.said
    assert named in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--days", "0"),
        ("--days", "-1"),
        ("--days", "1000000"),
        ("--live", "--rate", "0"),
        ("--live", "--rate", "nan"),
        ("--live", "--for", "soon"),
        ("--live", "--days", "2"),
        ("--rate", "5"),
        ("--for", "5s"),
    ],
)
def test_a_world_lives_on_forwards_or_not_at_all(tmp_path: Path, words: tuple[str, ...]) -> None:
    _world(tmp_path / "sandbox")
    parts = {part: Running(1, Process(1, "then")) for part in ALL}
    write(state := replace(new(tmp_path / "sandbox"), parts=parts))
    with (
        mock.patch("flows.sandbox.status", return_value=Status(state, {Part.APIS: Health.RUNNING}, True)),
        mock.patch("flows.sandbox.world.lives.advance", side_effect=AssertionError),
    ):
        done = run_here(
            ["sandbox", "advance", *words], tmp_path, {"ANALYTICS_SANDBOX": str(tmp_path / "sandbox")}
        )
    assert done.code == 2, done.said
    assert len(done.err.strip().splitlines()) == 1


NOWHERE = f"postgresql://own:{CANARY}@127.0.0.1:1/none"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["check", "stg_app__orders"], "Nothing of stg_app__orders is ever published"),
        (["check", "raw_app__orders"], "Nothing of raw_app__orders is ever published"),
        (["check", "--source", "--stream"], "--source and --stream"),
        (["check", "--stream", "fct_orders"], "leave the tables out"),
        (["dlq", "list", "--limit", "-1"], "--limit"),
        (["portal", "--serve", "--port", "99999"], "--port"),
        (["portal", "--port", "8400"], "go with --serve"),
        (["metrics", "--serve", "-1"], "--serve"),
        (["restore", "--into", "nonsense"], "--into"),
        (["rebuild", "--as-of", "2999-01-01"], "2999-01-01 is not over yet"),
        (
            ["rebuild", "--as-of", "2025-10-20", "nope"],
            "'nope' selects no table. All there are: python -m flows catalog",
        ),
        (
            ["rebuild", "--as-of", "2025-10-20", "fct_ordrs"],
            "'fct_ordrs' selects no table. Did you mean fct_orders",
        ),
    ],
)
def test_a_word_that_can_not_be_meant_is_named(tmp_path: Path, words: list[str], named: str) -> None:
    """Before anything is asked: no service is there."""
    done = run_here(words, tmp_path, {"ANALYTICS_WAREHOUSE_DSN": NOWHERE, "ANALYTICS_LAKE": "lake"})
    assert done.code == 2, done.said
    assert "Traceback" not in done.said
    assert named in done.err.strip().splitlines()[-1]


@pytest.mark.parametrize("words", [["dlq", "list"], ["dlq", "replay"]])
def test_an_entity_that_nobody_declared_is_not_one_without_dead_letters(
    tmp_path: Path, house: House, words: list[str]
) -> None:
    settings = {"ANALYTICS_WAREHOUSE_DSN": house.server().database(), "ANALYTICS_LAKE": "lake"}
    for entity, code in (("events.clicks", 0), ("clicks", 0), ("events.click", 2)):
        done = run_here([*words, "--entity", entity], tmp_path, settings)
        assert done.code == code, done.said
    assert "No source is declared as events.click" in done.err


def test_a_portal_that_can_not_be_written_is_told_in_one_sentence(tmp_path: Path, house: House) -> None:
    (tmp_path / "file").write_text("no folder")
    settings = {"ANALYTICS_WAREHOUSE_DSN": house.server().database(), "ANALYTICS_LAKE": "lake"}
    done = run_here(["portal", "--out", str(tmp_path / "file" / "portal")], tmp_path, settings)
    assert done.code == 2, done.said
    assert "--out" in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize("words", ["lineage fct_orders.revenue", "catalog dim_users"])
def test_a_terminal_without_some_letters_gets_the_others(tmp_path: Path, words: str) -> None:
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT),
                "ANALYTICS_WAREHOUSE_DSN": NOWHERE, "ANALYTICS_LAKE": "lake"}  # fmt: skip
    command = [sys.executable, "-m", "flows", *words.split()]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\\x" in done.stdout or b"\\u" in done.stdout


def test_a_closed_standard_output_is_no_defect(tmp_path: Path) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m flows sandbox status >&-"
    settings = {"PYTHONPATH": str(ROOT), "ANALYTICS_SANDBOX": str(tmp_path / "none")}
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == b""
