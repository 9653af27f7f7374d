"""Where secrets may stand, and that no text that leaves the process holds one."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flows import scrubbing
from flows.__main__ import main
from flows.sandbox import Part
from flows.settings import Settings, SettingsError, load
from tests.house import House

CANARY = "canary/4711%s"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scrubbing, "_settings", None)


def test_a_setting_can_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk_live_1\n")
    (tmp_path / "options").write_text('{"sasl.password": "p"}')
    monkeypatch.setenv("ANALYTICS_STRIPE_KEY_FILE", str(tmp_path / "key"))
    (tmp_path / ".env").write_text(f"ANALYTICS_KAFKA_OPTIONS_FILE={tmp_path / 'options'}\n")
    settings = load()
    assert settings.require("stripe_key") == "sk_live_1"
    assert settings.kafka_options == {"sasl.password": "p"}


def test_a_file_that_is_not_there_and_one_too_many_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANALYTICS_STRIPE_KEY_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="ANALYTICS_STRIPE_KEY_FILE names a file that can't be read"):
        load()
    (tmp_path / "nowhere").write_text("a")
    monkeypatch.setenv("ANALYTICS_STRIPE_KEY", "b")
    with pytest.raises(SettingsError, match="_FILE are both set"):
        load()


EMPTY = {
    "ANALYTICS_LAKE": "",
    "ANALYTICS_WAREHOUSE_DSN": "",
    "ANALYTICS_KAFKA_BOOTSTRAP": "",
    "ANALYTICS_KAFKA_OPTIONS": "",
    "ANALYTICS_STRIPE_URL": "",
    "ANALYTICS_STRIPE_KEY": "",
    "ANALYTICS_STRIPE_KEY_FILE": "",
    "ANALYTICS_RETRIES": "",
    "ANALYTICS_METRICS_FOLDER": "",
}


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_an_empty_setting_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    nothing = load()
    if place == ".env":
        (tmp_path / ".env").write_text("".join(f"{name}=\n" for name in EMPTY))
    for name, value in EMPTY.items() if place == "environment" else ():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings == nothing
    assert [settings.lake, settings.warehouse_dsn, settings.metrics_folder] == [None] * 3
    with pytest.raises(SettingsError, match="ANALYTICS_LAKE is not set and no sandbox is running"):
        _ = settings.lake_root
    with pytest.raises(SettingsError, match="ANALYTICS_WAREHOUSE_DSN is not set and no sandbox is running"):
        settings.require("warehouse_dsn")


def test_an_empty_variable_leaves_what_stands_in_the_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("ANALYTICS_LAKE=/srv/lake\n")
    monkeypatch.setenv("ANALYTICS_LAKE", "")
    assert load().lake_root == Path("/srv/lake")


def test_an_empty_file_that_a_setting_names_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dsn").write_text("\n")
    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN_FILE", str(tmp_path / "dsn"))
    with pytest.raises(SettingsError, match=r"What ANALYTICS_WAREHOUSE_DSN_FILE or .* names is empty"):
        load()


@pytest.fixture
def block(house: House) -> Iterator[Callable[[object], str]]:
    """Makes a Secret block with a value on the Prefect server of this test run, and gives its name."""
    state = house.parts(Part.PREFECT)
    from prefect.blocks.system import Secret
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    def make(value: object) -> str:
        name = f"canary-{uuid4().hex}"
        Secret(value=value).save(name)
        return name

    with temporary_settings({PREFECT_API_URL: state.prefect_url, PREFECT_HOME: state.prefect_home}):
        yield make


def test_a_setting_can_stand_in_a_block_of_prefects_server_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, block: Callable[[object], str], tmp_path: Path
) -> None:
    monkeypatch.setenv("ANALYTICS_STRIPE_KEY_BLOCK", block(CANARY))
    (tmp_path / ".env").write_text(f"ANALYTICS_APP_DSN_BLOCK=secret/{block('postgresql://u:pw4711@h/db')}\n")
    settings = load()
    assert settings.require("stripe_key") == CANARY
    assert settings.require("app_dsn") == "postgresql://u:pw4711@h/db"
    shown = f"{settings!r} {settings} {settings.model_dump_json()} "
    shown += scrubbing.told(RuntimeError(f"{CANARY} pw4711"))
    assert CANARY not in shown
    assert "pw4711" not in shown


@pytest.mark.parametrize("value", ["1e3", "007", "true", '"quoted"', "null"])
def test_a_block_that_reads_like_json_is_the_text_that_it_is(
    monkeypatch: pytest.MonkeyPatch, block: Callable[[object], str], value: str
) -> None:
    monkeypatch.setenv("ANALYTICS_STRIPE_KEY_BLOCK", block(value))
    assert load().require("stripe_key") == value


@pytest.mark.parametrize("value", [{"sasl.password": "p"}, '{"sasl.password": "p"}'])
def test_options_can_stand_in_a_block_as_json_or_as_text(
    monkeypatch: pytest.MonkeyPatch, block: Callable[[object], str], value: object
) -> None:
    monkeypatch.setenv("ANALYTICS_KAFKA_OPTIONS_BLOCK", block(value))
    assert load().kafka_options == {"sasl.password": "p"}


def test_a_block_is_read_where_an_event_loop_runs_too(
    monkeypatch: pytest.MonkeyPatch, block: Callable[[object], str]
) -> None:
    monkeypatch.setenv("ANALYTICS_STRIPE_KEY_BLOCK", block(CANARY))

    async def read() -> str:
        return load().require("stripe_key")

    assert asyncio.run(read()) == CANARY


def test_a_block_that_is_not_to_be_had_is_one_sentence_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, block: Callable[[object], str]
) -> None:
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    def said() -> str:
        written = io.StringIO()
        with contextlib.redirect_stderr(written):
            assert main(["plan"]) == 2
        return written.getvalue()

    server = get_current_settings().api.url
    monkeypatch.setenv("ANALYTICS_STRIPE_KEY_BLOCK", "nowhere")
    assert said() == (
        f"ANALYTICS_STRIPE_KEY_BLOCK names the Secret block nowhere, which the Prefect server at {server} "
        "does not have: make it there (Blocks, Secret), or correct the name; `prefect block ls` shows those "
        "it has.\n"
    )
    with temporary_settings({PREFECT_API_URL: f"http://u:{block(CANARY)}@127.0.0.1:1/api"}):
        away = said()
    assert "the Prefect server at http://u:***@127.0.0.1:1/api does not give it (ConnectError)" in away
    assert "correct PREFECT_API_URL" in away
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert "which Prefect server has it: set PREFECT_API_URL." in said()
    monkeypatch.setenv("ANALYTICS_KAFKA_OPTIONS_BLOCK", block(CANARY))
    monkeypatch.delenv("ANALYTICS_STRIPE_KEY_BLOCK")
    refused = said()
    assert "ANALYTICS_KAFKA_OPTIONS_BLOCK" in refused
    assert CANARY not in refused


def test_a_password_that_would_be_taken_for_a_host_is_refused_without_being_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANALYTICS_APP_DSN", "postgresql://u:can@ary4711@127.0.0.1/db")
    with pytest.raises(SettingsError, match="%40") as refused:
        load()
    assert "ary4711" not in str(refused.value)


def test_a_key_loses_the_line_break_at_its_end_and_one_that_can_be_none_is_refused_without_being_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANALYTICS_STRIPE_KEY", "sk_live_4711\n")
    assert load().require("stripe_key") == "sk_live_4711"
    monkeypatch.setenv("ANALYTICS_STRIPE_KEY", "sk_live_4711\nsk_live_4712")
    with pytest.raises(
        SettingsError, match="ANALYTICS_STRIPE_KEY can't be used: it holds a space"
    ) as refused:
        load()
    assert "sk_live" not in str(refused.value)


def _settings() -> Settings:
    from urllib.parse import quote

    given: dict[str, Any] = {"stripe_key": CANARY + "s"}
    return Settings(
        _env_file=None,
        warehouse_dsn=f"postgresql://u:{quote(CANARY + 'w', safe='')}@127.0.0.1/db",
        app_dsn=f"host=127.0.0.1 password='{CANARY}a' dbname=x",
        **given,
        kafka_options={"sasl.password": CANARY + "k", "sasl.username": "reader"},
    )


@pytest.mark.parametrize("mark", "wask")
def test_a_secret_in_any_form_is_starred(mark: str) -> None:
    from urllib.parse import quote

    settings = _settings()
    text = f"failed: {CANARY}{mark}, {quote(CANARY + mark, safe='')}; user reader"
    assert settings.scrub(text) == "failed: ***, ***; user reader"


@pytest.mark.parametrize("secret", ["back\\slash", 'it\'s "quoted"', "two\nlines", "t\u00e4glich"])
def test_a_secret_that_is_quoted_is_starred(secret: str) -> None:
    quoted = f"{secret!r} {secret.encode()!r} {json.dumps({'password': secret})}"
    scrubbed = scrubbing.scrubbed(quoted, [secret])
    assert "***" in scrubbed
    for part in ("slash", "quoted", "lines", "glich"):
        assert part not in scrubbed


def test_what_only_looks_like_a_password_is_starred_too() -> None:
    assert scrubbing.shown("postgresql://u:secret@h/db password=other x") == (
        "postgresql://u:***@h/db password=*** x"
    )
    assert scrubbing.shown("postgresql://u:password@db/x") == "postgresql://u:***@db/x"


def test_the_form_of_an_address_can_be_read_in_a_message() -> None:
    form = "postgresql://user:password@host:5432/database"
    assert scrubbing.shown(f"write it like {form}") == f"write it like {form}"


def test_log_records_and_tracebacks_are_scrubbed() -> None:
    factory = logging.getLogRecordFactory()
    written = io.StringIO()
    logger, handler = logging.getLogger("canary"), logging.StreamHandler(written)
    logger.addHandler(handler)
    try:
        scrubbing.watch(_settings())
        logger.warning("option %s", CANARY + "k")
        try:
            raise RuntimeError(f"connection with {CANARY}w")
        except RuntimeError as error:
            logger.exception("failed")
            told = scrubbing.told(error)
    finally:
        logging.setLogRecordFactory(factory)
        logger.removeHandler(handler)
    for text in (written.getvalue(), told):
        assert CANARY not in text
        assert "***" in text
    assert "RuntimeError" in told
