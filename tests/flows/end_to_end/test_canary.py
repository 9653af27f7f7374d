"""Recognizable secrets, errors of every kind, and everything that was written then: none of them is in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from flows import scrubbing
from flows.__main__ import main
from flows.sandbox import Part
from flows.stores.warehouse import Warehouse
from flows.stores.warehouse_errors import WarehouseError
from flows.terminal import show_scrubbed
from tests.flows.company import Company, with_models
from tests.flows.streaming.topics import until
from tests.house import House

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[3]
CANARY = "kanarie4711"
VALUE = "wert0815@example.com"
"""A person's datum in a row that is refused."""
DATUM = f"lower('{VALUE.upper()}')"
"""The same as a model says it: where what it says is quoted, the datum is not."""


class Place:
    """Settings with a canary in each secret, and what was said with them."""

    def __init__(self, house: House, folder: Path, dsn: str, api: str, prefect: str, block: str) -> None:
        known = conninfo_to_dict(dsn)
        self.dsn, self.folder, self.api = dsn, folder, api
        self.said: list[str] = []
        self.environment = {
            "ANALYTICS_WAREHOUSE_DSN": dsn,
            "ANALYTICS_APP_DSN": f"postgresql://app:{CANARY}%2Fapp@127.0.0.1:{known['port']}/{known['dbname']}",
            "ANALYTICS_KAFKA_BOOTSTRAP": house.kafka,
            "ANALYTICS_CONNECT_URL": "http://127.0.0.1:1",
            "ANALYTICS_KAFKA_OPTIONS": json.dumps({"ssl.key.password": CANARY + "-kafka"}),
            "ANALYTICS_STRIPE_URL": api,
            "ANALYTICS_STRIPE_KEY": CANARY + "-stripe",
            "ANALYTICS_SENDGRID_URL": api,
            "ANALYTICS_SENDGRID_KEY_BLOCK": block,
            "ANALYTICS_LAKE": str(folder / "lake"),
            "ANALYTICS_PORTAL": str(folder / "portal"),
            "ANALYTICS_RETRIES": "0",
            "PREFECT_API_URL": prefect,
        }

    def run(self, *words: str, **other: str) -> str:
        """A command that has to fail, with its traceback; what it said, as its process would have said it."""
        out, err = io.StringIO(), io.StringIO()
        environment = {**self.environment, **other}
        with (
            mock.patch.dict(os.environ, environment),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                code = main(["--debug", *words])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is shown as its process shows it
                code = 1
                show_scrubbed(type(error), error, None)
        self.said.append(out.getvalue() + err.getvalue())
        assert code != 0, self.said[-1]
        return self.said[-1]

    def spawn(self, *words: str) -> str:
        """The same in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "flows", "--debug", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode != 0, done.stdout + done.stderr
        self.said.append(done.stdout + done.stderr)
        return self.said[-1]


@pytest.fixture
def place(house: House, tmp_path: Path) -> Iterator[Place]:
    state = house.parts(Part.PREFECT, Part.KAFKA)
    assert state.prefect_url is not None
    # It reads the environment when it is imported.
    from prefect.blocks.system import Secret
    from prefect.settings import PREFECT_API_URL, temporary_settings

    block = f"sendgrid-{uuid4().hex}"
    dsn = house.server().database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"create role app login password '{CANARY}-other'".encode())
    try:
        with temporary_settings({PREFECT_API_URL: state.prefect_url}):
            Secret(value=SecretStr(CANARY + "-sendgrid")).save(block)
            yield Place(house, tmp_path, dsn, str(house.apis().stripe_url), state.prefect_url, block)
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop role app")


def test_no_secret_is_in_anything_that_is_written(place: Place) -> None:
    known = conninfo_to_dict(place.dsn)
    wrong = make_conninfo(place.dsn, password=CANARY + "-wrong")
    away = f"postgresql://w:{quote(CANARY + '@/away', safe='')}@127.0.0.1:1/none"

    assert "password authentication failed" in place.run("plan", ANALYTICS_WAREHOUSE_DSN=wrong)
    assert "refused" in place.run("plan", ANALYTICS_WAREHOUSE_DSN=away)
    place.run("plan", ANALYTICS_WAREHOUSE_DSN=f"postgresql://w:{CANARY}@x@127.0.0.1:1/none")
    place.run("plan", ANALYTICS_WAREHOUSE_DSN=f"postgresql://w:{CANARY}@127.0.0.1:port/none")
    place.run("plan", ANALYTICS_KAFKA_OPTIONS='{"sasl.password": "' + CANARY)
    place.run("plan", ANALYTICS_WORKERS=CANARY)
    place.run("doctor")
    place.run("doctor", ANALYTICS_APP_DSN=away, ANALYTICS_STRIPE_URL=f"http://u:{CANARY}@127.0.0.1:1")
    wrong_options = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "u",
                     "sasl.password": CANARY}  # fmt: skip
    place.run("doctor", ANALYTICS_KAFKA_OPTIONS=json.dumps(wrong_options))
    place.run("schema", "diff")
    failed = place.spawn("run")  # the sources refuse: a wrong password, 401 by both APIs
    assert "raw_app__" in failed
    assert "refused the key" in failed
    assert "raw_app__" in (place.folder / "portal" / "runs.html").read_text(encoding="utf-8")
    _refuse_a_row(place)

    prefect = _prefect(place.dsn, place.environment["PREFECT_API_URL"])
    everything = [*place.said, *_files(place.folder), *_warehouse(place.dsn), *prefect]
    assert len(everything) > 30
    assert [text[:300] for text in everything if CANARY in text] == []
    assert [text[:300] for text in place.said if VALUE in text] == []
    assert str(known["password"]) not in "".join(place.said)


GONE = """--- */
-- Mostly nobody: where their keys are asked for first, no record has to be taken apart.
with gone as (
    select distinct id
    from raw_app__users
    where id not in"""
BREAKAGES = {
    "stg_app__users": (
        "staging/stg_app__users.sql",
        "nullif(trim(email), '')::varchar as email",
        f"({DATUM} || email)::integer::varchar as email",
    ),
    "dim_users": (
        "dimensions/dim_users.sql",
        GONE,
        f"  - sql: {{name: odd, query: select * from dim_users where ({DATUM} || email)::integer = 1}}\n"
        + GONE.replace("where id", "where id + 0"),
    ),
}
"""What fails over a value: a model's own cast, and a rule's."""


@pytest.mark.parametrize("table", BREAKAGES)
def test_what_a_table_fails_on_is_quoted_nowhere(company: Company, tmp_path: Path, table: str) -> None:
    path, old, new = BREAKAGES[table]
    place = company.copy()
    done = place.command("--debug", models=with_models(tmp_path, {path: (old, new)}))

    assert done.code == 1, done.said
    prefect = _prefect(place.warehouse_dsn, str(company.house.parts(Part.PREFECT).prefect_url))
    files = [path for path in place.lake.parent.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    everything = [
        done.said,
        *(path.read_bytes().decode("latin-1") for path in files),
        *_warehouse(place.warehouse_dsn),
        *prefect,
    ]
    assert any(table in line for line in place.summary()["failures"])
    assert [text[max(0, text.find(VALUE) - 300) :][:400] for text in everything if VALUE in text] == []


def _refuse_a_row(place: Place) -> None:
    """A row whose value the warehouse can't take: the error quotes it, what is said does not."""
    with Warehouse(place.dsn).connect() as connection:
        connection.execute("create table public.mails (mail text primary key)")
    insert = f"insert into public.mails values ('{VALUE}')"
    with pytest.raises(WarehouseError, match="duplicate key") as refused:
        _twice(place, insert)
    place.said.append(scrubbing.told(refused.value))


def _twice(place: Place, statement: str) -> None:
    with Warehouse(place.dsn).connect() as connection:
        connection.execute(statement.encode())
        connection.execute(statement.encode())


def _files(folder: Path) -> list[str]:
    return [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]


def _warehouse(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "select oid::regclass::text from pg_class "
            "where relkind = 'r' and relnamespace = 'ops'::regnamespace"
        ).fetchall()
        return [str(connection.execute(f"select * from {name}".encode()).fetchall()) for (name,) in tables]


def _prefect(dsn: str, url: str) -> list[str]:
    """What Prefect's server, which other tests use too, has of this warehouse's runs: flow and task runs with
    their states, logs, artifacts and events.
    """
    with psycopg.connect(dsn) as connection:
        runs = [str(run) for (run,) in connection.execute("select run_id from ops.run").fetchall()]
    assert runs
    of_runs = {"flow_runs": {"id": {"any_": runs}}}
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as api:

        def asked(path: str, body: dict[str, Any]) -> Any:
            return api.post(path, json=body).raise_for_status().json()

        # The server learns of task runs by events, a moment after they ended.
        until(lambda: bool(asked("/task_runs/filter", of_runs)))
        tasks = asked("/task_runs/filter", of_runs)
        found = [tasks, asked("/flow_runs/filter", of_runs), asked("/artifacts/filter", of_runs)]
        logs = {"logs": {"flow_run_id": {"any_": runs}}}
        while page := asked("/logs/filter", {**logs, "offset": sum(map(len, found[3:]))}):
            found.append(page)
        resources = [f"prefect.flow-run.{run}" for run in runs]
        page = asked("/events/filter", {"filter": {"any_resource": {"id": resources}}})
        found.append(page)
        while following := page["next_page"]:
            page = api.get(following).raise_for_status().json()
            found.append(page)
        for kind, ids in (("flow_run", runs), ("task_run", [task["id"] for task in tasks])):
            for one in ids:
                states = api.get(f"/{kind}_states/", params={f"{kind}_id": one})
                found.append(states.raise_for_status().json())
    return [str(one) for one in found]
