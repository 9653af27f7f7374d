"""The command line: wrong or missing settings get one sentence, and no secret is ever shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.flows.company import ROOT, Company, Done, Place, run_here
from tests.house import House, ask_prefect

CANARY = "hunter2-canary-2f9c"


def flows(folder: Path, *words: str, **environment: str) -> Done:
    """`python -m flows WORDS` in an empty folder, with nothing set but what is given."""
    return run_here(words, folder, environment)


def _everything(**settings: str) -> dict[str, str]:
    """Settings that name every service, none of which is there."""
    nowhere = f"postgresql://flows:{CANARY}@127.0.0.1:1/db?connect_timeout=2"
    return {
        "ANALYTICS_WAREHOUSE_DSN": nowhere,
        "ANALYTICS_APP_DSN": nowhere,
        "ANALYTICS_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "ANALYTICS_CONNECT_URL": "http://127.0.0.1:1",
        "ANALYTICS_STRIPE_URL": "http://127.0.0.1:1",
        "ANALYTICS_STRIPE_KEY": f"sk_{CANARY}",
        "ANALYTICS_SENDGRID_URL": "http://127.0.0.1:1",
        "ANALYTICS_SENDGRID_KEY": f"SG.{CANARY}",
        "ANALYTICS_LAKE": "lake",
        "ANALYTICS_RETRIES": "0",
        **settings,
    }


def _one_sentence(done: Done, *parts: str) -> None:
    assert done.code == 2, done.said
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert "Traceback" not in done.said
    for part in parts:
        assert part in done.err, done.err


@pytest.mark.parametrize("verb", [["plan"], ["check"], ["dlq", "list"]])
def test_without_settings_and_sandbox_the_missing_one_is_named(tmp_path: Path, verb: list[str]) -> None:
    _one_sentence(flows(tmp_path, *verb), "ANALYTICS_WAREHOUSE_DSN", "python -m flows sandbox start")


def test_a_lake_that_was_never_written_says_what_to_run(tmp_path: Path) -> None:
    _one_sentence(flows(tmp_path, "lake", "select 1", ANALYTICS_LAKE="lake"), "Run the batch first")


@pytest.mark.parametrize(
    ("name", "value"),
    [("RETRIES", "many"), ("WORKERS", "0"), ("KAFKA_OPTIONS", "not json"), ("RETRY_SECONDS", "-1"),
     ("KAFKA_OPTIONS", '{"no.such.option": "x"}'),
     ("KAFKA_OPTIONS", f'{{"security.protocol": "ssl", "ssl.key.pem": "{CANARY}"}}'),
     ("MEMORY_LIMIT", "lots"), ("MEMORY_LIMIT", "0GB"), ("STRIPE_URL", "http://[::1"),
     ("CONNECT_URL", "http://connect:port"), ("SENDGRID_URL", "api.sendgrid.com")],
)  # fmt: skip
def test_a_setting_that_can_not_be_read_is_named(tmp_path: Path, name: str, value: str) -> None:
    for verb in ("plan", "doctor"):
        done = flows(tmp_path, verb, **{f"ANALYTICS_{name}": value})
        _one_sentence(done, f"ANALYTICS_{name}")
        assert CANARY not in done.said


def test_a_dsn_that_is_none_is_named_without_its_secret(tmp_path: Path) -> None:
    settings = _everything(
        ANALYTICS_WAREHOUSE_DSN=f"postgresql://flows:{CANARY}@host:port/x?nonsense={CANARY}"
    )
    done = flows(tmp_path, "plan", **settings)
    _one_sentence(done, "ANALYTICS_WAREHOUSE_DSN", "postgresql://user:password@host:5432/database")
    assert CANARY not in done.said


def test_an_env_file_serves_as_the_environment_does(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ANALYTICS_RETRIES=many\n")
    _one_sentence(flows(tmp_path, "plan"), "ANALYTICS_RETRIES")


def test_a_lake_that_can_not_be_written_ends_a_run_in_one_sentence(copy: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = copy.run(ANALYTICS_LAKE=str(tmp_path / "file" / "lake"))
    assert done.code == 2, done.said
    assert "Traceback" not in done.said
    assert "The lake can't be written in" in done.err
    assert "ANALYTICS_LAKE" in done.err


@pytest.mark.parametrize(
    "verb",
    [["plan"], ["check"], ["dlq", "list"], ["backfill", "--from", "2025-10-21", "--to", "2025-10-22"], []],
)
def test_a_warehouse_that_is_not_there_gets_one_sentence_without_secrets(
    built: Place, tmp_path: Path, verb: list[str]
) -> None:
    """The Prefect server is the one that is there."""
    done = flows(tmp_path, *verb, **built.environment, **_everything())
    assert done.code == 2, done.said
    assert "Traceback" not in done.said
    assert "warehouse" in done.err.lower()
    assert CANARY not in done.said


def test_a_key_that_is_missing_ends_a_run_before_it_begins(built: Place, tmp_path: Path) -> None:
    settings = _everything()
    del settings["ANALYTICS_STRIPE_KEY"]
    done = flows(tmp_path, **built.environment | settings)
    _one_sentence(done, "ANALYTICS_STRIPE_KEY is not set")


def test_a_range_that_holds_nothing_is_refused_in_one_sentence_and_is_no_run_that_failed(
    copy: Place, company: Company
) -> None:
    ranges = [("2025-10-22", "2025-10-21"), ("yesterday", "today"), ("1999-01-01", "1999-02-01")]
    for start, end in ranges:
        done = copy.run("backfill", "--from", start, "--to", end)
        assert done.code == 2, done.said
        assert "Traceback" not in done.said
        assert start in done.err
    # Other tests have runs at the same server.
    asked = {"flows": {"name": {"any_": ["backfill"]}}, "limit": 200}
    with httpx.Client(base_url=f"{company.state().prefect_url}/", trust_env=False) as server:
        runs = ask_prefect(server, "POST", "flow_runs/filter", asked)
    begun = [(run["parameters"]["start"], run["parameters"]["end"]) for run in runs]
    assert [one for one in ranges if one in begun] == []


def test_an_error_leaves_a_process_with_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows", "plan"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    _one_sentence(Done(done.returncode, done.stdout, done.stderr), "ANALYTICS_WAREHOUSE_DSN")
    command.insert(3, "--debug")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, flows.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'prefect', 'great_expectations', 'duckdb', 'polars', 'pyarrow', 'confluent_kafka'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_dead_letters_are_listed_and_shown_with_their_bytes(built: Place) -> None:
    listed = built.run("dlq", "list", "--entity", "events.clicks", "--limit", "3")
    assert listed.code == 0
    counts = [line.split()[0] for line in listed.out.splitlines() if " events.clicks " in line]
    assert sum(map(int, counts)) == built.value(
        "select count(*) from ops.dead_letter where entity = 'clicks'"
    )
    letter = next(
        line.split()[0] for line in listed.out.splitlines() if ": " in line and "topic clicks" in line
    )
    shown = built.run("dlq", "show", letter)
    assert shown.code == 0
    reason, size = built.rows(
        "select reason, length(payload) from ops.dead_letter where starts_with(letter_id, %s)", letter
    )[0]
    assert f"reason:   {reason}" in shown.out
    assert f"bytes:    {size:,}" in shown.out


def test_an_unknown_dead_letter_gets_one_sentence(built: Place) -> None:
    done = built.run("dlq", "show", "no-such-letter")
    assert done.code == 2
    assert "python -m flows dlq list" in done.err


def test_no_secret_of_the_services_is_in_what_a_run_leaves_behind(built: Place, house: House) -> None:
    """In logs, Prefect's database, results, the lake and the ops tables; state.json is where secrets live."""
    state = house.parts()
    dsns = [psycopg.conninfo.conninfo_to_dict(dsn or "") for dsn in (state.app_dsn, state.warehouse_dsn)]
    secrets = [str(parts["password"]) for parts in dsns]
    secrets += [key for key in (state.stripe_key, state.sendgrid_key) if key]
    assert len(secrets) == 4
    looked = 0
    for path in house.folder.rglob("*"):
        if not path.is_file() or path.name.startswith(("state.json", ".state")):
            continue
        if {"postgres", "kafka"} & set(path.relative_to(house.folder).parts):
            continue
        content = path.read_bytes()
        looked += 1
        for secret in secrets:
            assert secret.encode() not in content, f"{path} holds a secret"
    assert looked > 50
    for table in ("run", "ledger", "check_result", "dead_letter", "pending_publish"):
        rows = str(built.rows(f"select t::text from ops.{table} t"))
        assert not any(secret in rows for secret in secrets), f"ops.{table} holds a secret"
