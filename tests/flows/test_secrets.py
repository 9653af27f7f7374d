"""Where secrets may stand, and that no text that leaves the process holds one."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from flows import scrubbing
from flows.settings import Settings, SettingsError, load

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
    assert settings.stripe_key is not None
    assert settings.stripe_key.get_secret_value() == "sk_live_1"
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


def test_a_password_that_would_be_taken_for_a_host_is_refused_without_being_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANALYTICS_APP_DSN", "postgresql://u:can@ary4711@127.0.0.1/db")
    with pytest.raises(SettingsError, match="%40") as refused:
        load()
    assert "ary4711" not in str(refused.value)


def _settings() -> Settings:
    from urllib.parse import quote

    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        warehouse_dsn=f"postgresql://u:{quote(CANARY + 'w', safe='')}@127.0.0.1/db",
        app_dsn=f"host=127.0.0.1 password='{CANARY}a' dbname=x",
        stripe_key=CANARY + "s",
        kafka_options={"sasl.password": CANARY + "k", "sasl.username": "reader"},
    )


@pytest.mark.parametrize("mark", "wask")
def test_a_secret_in_any_form_is_starred(mark: str) -> None:
    from urllib.parse import quote

    settings = _settings()
    text = f"failed: {CANARY}{mark}, {quote(CANARY + mark, safe='')}; user reader"
    assert settings.scrub(text) == "failed: ***, ***; user reader"


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
