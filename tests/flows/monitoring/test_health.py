"""What is measured is kept: since when, minute by minute, and what nobody measured stays uncovered."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from flows.monitoring import signals
from flows.monitoring.health import check_pipeline_health
from flows.monitoring.look import document, is_away, lines, look
from flows.monitoring.signals import SIGNALS
from flows.monitoring.verdict import State, Verdict
from flows.stores.read_only import TO_DO
from tests.flows.monitoring.conftest import NOW, Place


def _verdict(
    place: Place, state: State, subject: str = "fct_orders", signal: str = "data_freshness"
) -> Verdict:
    return Verdict(
        signal,
        subject,
        state,
        place.moment[0],
        value=1.0,
        limit=2.0,
        unit="s",
        message="m",
        action="a",
        observed={"as_of": "x"},
    )


def _spans(place: Place, subject: str = "fct_orders") -> list[tuple[float, float, str]]:
    """Seconds since the test began, and the verdict."""
    rows = place.execute(
        "select since, until, verdict from ops.health_span where subject = %s order by since", subject
    )
    return [
        ((since - NOW).total_seconds(), (until - NOW).total_seconds(), verdict)
        for since, until, verdict in rows
    ]


def test_the_time_since_when_something_is_so_stays_while_it_is_so(place: Place) -> None:
    since = []
    for state in (State.OK, State.WARNING, State.WARNING, State.OK):
        since += [verdict.since for verdict in place.record(_verdict(place, state))]
        place.later(60)
    minute = timedelta(seconds=60)
    assert since == [NOW, NOW + minute, NOW + minute, NOW + 3 * minute]
    rows = place.execute(
        "select signal, subject, verdict, value, limit_value, unit, since, measured_at, message, action, "
        "observed from ops.health"
    )
    assert rows == [
        (
            "data_freshness",
            "fct_orders",
            "ok",
            1.0,
            2.0,
            "s",
            NOW + 3 * minute,
            NOW + 3 * minute,
            "m",
            "a",
            {"as_of": "x"},
        )
    ]


def test_a_span_grows_while_minutes_follow_each_other_and_a_gap_is_in_none(place: Place) -> None:
    for state, pause in (
        (State.OK, 60),
        (State.OK, 90),
        (State.OK, 91),
        (State.OK, 60),
        (State.CRITICAL, 60),
    ):
        place.record(_verdict(place, state))
        place.later(pause)
    place.record(_verdict(place, State.CRITICAL))
    assert _spans(place) == [(0, 150, "ok"), (241, 241, "ok"), (301, 361, "critical")]


def test_two_monitors_at_the_same_moment_keep_one_span(place: Place) -> None:
    for _ in range(2):
        place.record(_verdict(place, State.OK))
    assert _spans(place) == [(0, 0, "ok")]


def test_what_is_not_spoken_of_any_more_is_forgotten_unless_its_signal_was_not_measured(place: Place) -> None:
    place.record(
        _verdict(place, State.OK, "fct_a"),
        _verdict(place, State.OK, "fct_b"),
        _verdict(place, State.OK, "lake", "disk"),
    )
    place.later(60)
    place.record(_verdict(place, State.OK, "fct_a"), _verdict(place, State.UNKNOWN, "everything", "disk"))
    assert sorted(place.execute("select signal, subject from ops.health")) == [
        ("data_freshness", "fct_a"),
        ("disk", "everything"),
        ("disk", "lake"),
    ]
    place.later(60)
    place.record(_verdict(place, State.OK, "fct_a"), _verdict(place, State.OK, "lake", "disk"))
    assert sorted(place.execute("select signal, subject from ops.health")) == [
        ("data_freshness", "fct_a"),
        ("disk", "lake"),
    ]


def test_a_signal_that_fails_is_unknown_and_the_others_are_measured(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Any:
        yield Verdict("disk", "lake", State.OK, NOW)
        raise RuntimeError("no answer, password=secret-of-the-app")

    chosen = [signal for signal in SIGNALS if signal.name in ("reconciliation", "bloat")]
    failing = signals.Signal("disk", "", "critical", "Mend it.", broken)
    monkeypatch.setattr("flows.monitoring.health.SIGNALS", (failing, *chosen))
    found = {(verdict.signal, verdict.subject): verdict for verdict in check_pipeline_health(place.services)}
    assert found["disk", "lake"].state is State.OK
    unknown = found["disk", "everything"]
    assert (unknown.state, unknown.message) == (
        State.UNKNOWN,
        "disk could not be measured: no answer, password=***.",
    )
    assert found["bloat", "warehouse"].state is State.OK
    assert found["reconciliation", "transactions"].state is State.OK


def test_an_empty_warehouse_is_measured_and_what_was_never_built_is_unknown(place: Place) -> None:
    verdicts = look(place.services)
    by_signal = {verdict.signal for verdict in verdicts}
    assert by_signal >= {"data_freshness", "schema_drift", "dead_letters", "disk", "wal"}
    fresh = [verdict for verdict in verdicts if verdict.signal == "data_freshness"]
    assert {verdict.state for verdict in fresh} == {State.UNKNOWN}
    # The application's database does not answer here.
    (slot,) = [verdict for verdict in verdicts if verdict.signal == "wal"]
    assert slot.state is State.UNKNOWN
    assert "secret-of-the-app" not in slot.message
    assert place.execute("select count(*) from ops.health") == [(len(verdicts),)]
    assert len(document(verdicts)) == len(verdicts)
    assert any(line.startswith("UNKNOWN   wal  everything") for line in lines(verdicts))


def test_while_the_warehouse_is_away_that_is_one_verdict_and_the_disk_is_measured(tmp_path: Path) -> None:
    gone = "host=127.0.0.1 port=9 user=nobody password=secret-of-the-warehouse"
    verdicts = look(Place(gone, tmp_path).services)
    assert [(verdict.signal, verdict.state) for verdict in verdicts if verdict.signal != "disk"] == [
        ("warehouse", State.CRITICAL)
    ]
    (disk,) = [verdict for verdict in verdicts if verdict.signal == "disk"]
    assert disk.state is not State.UNKNOWN
    assert "secret-of-the-warehouse" not in "\n".join(lines(verdicts))


def test_that_the_warehouse_takes_no_writes_is_a_verdict_and_the_rest_is_measured(
    place: Place, tmp_path: Path
) -> None:
    dsn = place.services.settings.require("warehouse_dsn")
    only_reads = make_conninfo(dsn, options="-c default_transaction_read_only=on")
    verdicts = check_pipeline_health(Place(only_reads, tmp_path).services)
    (said,) = [verdict for verdict in verdicts if verdict.signal == "warehouse"]
    assert (said.state, said.action) == (State.CRITICAL, TO_DO)
    assert "default_transaction_read_only is on" in said.message
    assert {verdict.signal for verdict in verdicts} >= {"data_freshness", "dead_letters", "disk"}
    assert is_away(look(Place(only_reads, tmp_path).services))


def test_every_signal_says_what_it_is_how_bad_it_can_be_and_what_to_do() -> None:
    assert len({signal.name for signal in SIGNALS}) == len(SIGNALS)
    for signal in SIGNALS:
        assert signal.about.endswith(".")
        assert signal.action
        assert signal.severity in ("critical", "warning")


def test_how_fast_budgets_burn_is_kept_with_the_rest(place: Place) -> None:
    look(place.services)
    rows = place.execute("select subject, verdict from ops.health where signal = 'sla_burn' order by 1")
    assert rows == [("freshness", "ok"), ("quality", "ok"), ("uptime", "ok")]
