"""The file of channels and routes: each mistake is one sentence that names its place."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.alerting.routes import AlertsError, Routes, read, routes
from flows.settings import Settings

ONE = "channels: {log: 'file:///tmp/log'}\n"


def _read(folder: Path, text: str) -> Routes:
    path = folder / "alerts.yaml"
    path.write_text(text)
    return read(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("channels: [", "is no YAML in line 1"),
        ("- a", "the file must be names with values"),
        (ONE + ONE, "is no YAML in line 2: channels stands twice"),
        ("channels: {log: 'file:///a', log: 'file:///b'}", "is no YAML in line 1: log stands twice"),
        ("? [a]\n: b", "is no YAML in line 1: found unhashable key"),
        ("chanels: {}", "the file has 'chanels', which is unknown"),
        (ONE + "routes: {a: b}", "routes must be a list"),
        (ONE + "routes: [{severity: critical}]", "routes[1] needs `channels`"),
        (ONE + "routes: [{channels: [logg]}]", "routes[1].channels names 'logg', which is no channel (log)"),
        (ONE + "routes: [{channels: log, severity: bad}]", "routes[1].severity has 'bad'"),
        (ONE + "routes: [{channels: log, owner: 3}]", "routes[1].owner must be a name or a list of names"),
        (ONE + "escalate: {critical: soon}", "escalate.critical can't be read: 'soon' is no length of time"),
        (
            ONE + "escalate: {critical: 99999999999999h}",
            "escalate.critical has '99999999999999h', which is longer",
        ),
        (ONE + "quiet: {from: '22:00'}", "quiet needs `from` and `to`"),
        (ONE + "quiet: {from: 2025-13-45, to: '07:00'}", "quiet.from has '2025-13-45': write a time of day"),
        (
            ONE + "quiet: {from: 22:00, to: '07:00'}",
            "quiet.from has 1320: write a time of day between quotes",
        ),
        (ONE + "quiet: {from: '22:00', to: '07:00', timezone: Moon}", "'Moon', which is no time zone"),
        (
            ONE + "quiet: {from: '22:00+01:00', to: '07:00'}",
            "quiet.from has '22:00+01:00': write it without an offset, and its zone as quiet.timezone",
        ),
        (ONE + "quiet: {from: '22:00', to: '07:00Z'}", "quiet.to has '07:00Z': write it without an offset"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(AlertsError) as failed:
        _read(tmp_path, text)
    assert sentence in str(failed.value)
    assert "hush-hush" not in str(failed.value)
    assert "\n" not in str(failed.value)
    assert not str(failed.value).endswith("..")


@pytest.mark.parametrize(
    ("channel", "sentence"),
    [
        ("7", "must be names with values"),
        ("{}", "needs either `url`, an address, or `url_from`"),
        ("{url_from: /no/such}", ".url_from names /no/such, which can't be read"),
        ("{url_from: /proc/self/exe}", ".url_from names /proc/self/exe, which is no text"),
        ('{url_from: "a\\0b"}', "which is no path"),
        ("{url_from: /dev/null}", "is no address that apprise knows"),
        ("'file://log'", "must name an absolute path"),
        ("'slack://hush-hush'", "is no address that apprise knows"),
        ("'carrier-pigeon://coop'", "the address of kind 'carrier-pigeon' is incomplete or unknown"),
        ("{url: 'file:///a', resolved: maybe}", ".resolved must be true or false"),
        ("{url: 'file:///a', urll: x}", "has 'urll', which is unknown"),
    ],
)
def test_a_mistake_in_a_channel_is_its_own_and_the_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, channel: str, sentence: str
) -> None:
    found = _read(
        tmp_path,
        f"channels: {{log: 'file:///tmp/log', bad: {channel}}}\nroutes: [{{channels: [bad, log]}}]\n",
    )
    assert found.to("critical") == ["bad", "log"]
    assert found.channels["log"].problem == ""
    problem = found.channels["bad"].problem
    assert problem.startswith(f"{tmp_path / 'alerts.yaml'}: channels.bad")
    assert sentence in problem
    assert "hush-hush" not in str(found) + caplog.text
    assert "\n" not in problem


def test_a_file_that_is_no_text_is_named_with_its_setting() -> None:
    with pytest.raises(AlertsError, match=r"ANALYTICS_ALERTS names /proc/self/exe, which is no text"):
        read(Path("/proc/self/exe"))


def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(AlertsError, match=r"ANALYTICS_ALERTS names .*nowhere.yaml, which can't be read"):
        read(tmp_path / "nowhere.yaml")


def test_a_message_goes_to_the_channels_of_every_route_that_takes_it(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        "channels: {a: 'file:///a', b: 'file:///b', c: 'file:///c'}\n"
        "routes:\n"
        "  - {severity: [critical], channels: [a, b]}\n"
        "  - {table: 'fct_*', owner: data-team, channels: [b, c]}\n"
        "escalate: {channels: [a], warning: 2h}\n",
    )
    assert found.to("critical", "data-team", {"fct_orders"}) == ["a", "b", "c"]
    assert found.to("warning", "data-team", {"fct_orders"}) == ["b", "c"]
    assert found.to("warning", "others", {"fct_orders"}) == []
    assert found.to("warning", "data-team", {"dim_users"}) == []
    assert found.to("warning", "data-team", {"fct_orders"}, escalated=True) == ["b", "c", "a"]
    assert found.to("critical", without="a") == ["b"]
    assert found.escalate_after["warning"].total_seconds() == 7200


def test_quiet_hours_reach_over_midnight_in_their_own_zone(tmp_path: Path) -> None:
    found = _read(tmp_path, ONE + 'quiet: {from: "22:00", to: "07:00", timezone: Europe/Berlin}')
    evening = datetime(2025, 11, 3, 21, 30, tzinfo=UTC)
    assert found.due_at("warning", evening) == datetime(2025, 11, 4, 6, 0, tzinfo=UTC)
    assert found.due_at("critical", evening) == evening
    noon = datetime(2025, 11, 3, 11, 0, tzinfo=UTC)
    assert found.due_at("warning", noon) == noon


def test_without_a_file_nobody_is_told_but_the_sandbox_writes_one(tmp_path: Path) -> None:
    sandbox = routes(Settings(_env_file=None, sandbox=tmp_path))
    assert sandbox.channels["file"].url == f"file://{tmp_path / 'alerts.jsonl'}"
    given: dict[str, Any] = {"stripe_url": "http://s", "sendgrid_url": "http://s", "kafka_bootstrap": "k:1"}
    own = Settings(_env_file=None, warehouse_dsn="dbname=w", app_dsn="dbname=a", **given)
    assert routes(own).channels == {}


def test_what_a_channel_s_address_holds_is_not_shown(tmp_path: Path) -> None:
    found = _read(tmp_path, "channels: {mail: 'mailto://u:pass-word@mail.example.com?to=o@example.com'}\n")
    assert "pass-word" not in repr(found)


def test_a_pager_is_not_called_for_what_is_over_unless_the_file_says_so(tmp_path: Path) -> None:
    known = _read(
        tmp_path,
        "channels:\n"
        "  pager: pagerduty://integration@key\n"
        "  both: {url: 'pagerduty://integration@key', resolved: true}\n"
        "routes: [{channels: [pager, both]}]\n",
    )
    assert known.to("critical") == ["pager", "both"]
    assert known.to("critical", resolved=True) == ["both"]


def test_quiet_hours_end_in_their_zone_also_where_the_clock_is_put_forward_or_back(tmp_path: Path) -> None:
    """Berlin's clocks go from 2:00 to 3:00 on 30 March 2025, and from 3:00 to 2:00 on 26 October."""
    known = _read(
        tmp_path, ONE + "quiet: {from: '22:00', to: '02:30', timezone: Europe/Berlin}\nroutes: []\n"
    )
    forward, back = datetime(2025, 3, 30, 0, 59, tzinfo=UTC), datetime(2025, 10, 25, 23, 0, tzinfo=UTC)
    assert known.due_at("warning", forward).astimezone(UTC) == datetime(2025, 3, 30, 1, 30, tzinfo=UTC)
    assert known.due_at("warning", datetime(2025, 3, 30, 1, 0, tzinfo=UTC)).minute == 0
    assert known.due_at("warning", back).astimezone(UTC) == datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    assert known.due_at("critical", back) == back
