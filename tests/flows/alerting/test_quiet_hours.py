"""What is told in quiet hours, and what when they are over."""

from __future__ import annotations

import json

from flows.monitoring.verdict import State
from tests.flows.alerting.conftest import Watch

LATE = "data_freshness"


def test_in_quiet_hours_only_what_is_critical_goes_and_the_rest_waits_until_they_are_over(
    watch: Watch,
) -> None:
    watch.write(
        f"channels: {{log: 'file://{watch.log}'}}\nroutes: [{{channels: [log]}}]\n"
        'quiet: {from: "12:00", to: "13:00", timezone: UTC}\n'
    )
    warning = watch.verdict("row_count", "fct_emails", State.WARNING)
    blip = watch.verdict("row_count", "fct_refunds", State.WARNING)
    assert watch.minute(warning, blip) == []
    assert len(watch.minute(warning, blip, watch.verdict(LATE, "fct_orders"))) == 1
    good = watch.verdict("row_count", "fct_refunds", State.OK)
    assert watch.minute(warning, good, watch.verdict(LATE, "fct_orders")) == []
    watch.later(hours=1)
    told = [
        m["title"]
        for m in watch.minute(warning, good, watch.verdict(LATE, "fct_orders"))
        if "fct_orders" not in m["title"]
    ]
    assert [title.split(":")[0] for title in told] == ["WARNING", "RESOLVED after 2 min"]


def _quiet(watch: Watch, escalate: str) -> None:
    watch.write(
        f"channels: {{log: 'file://{watch.log}', calm: 'file://{watch.folder / 'calm'}'}}\n"
        "routes: [{channels: [log]}, {severity: [warning], channels: [calm]}]\n"
        f'quiet: {{from: "12:00", to: "13:00", timezone: UTC}}\nescalate: {escalate}\n'
    )


def test_what_became_critical_in_quiet_hours_is_not_followed_by_the_warning_that_waited(watch: Watch) -> None:
    _quiet(watch, "{}")
    watch.minute(watch.verdict(LATE, "fct_orders", State.WARNING))
    (told,) = watch.minute(watch.verdict(LATE, "fct_orders"))
    assert told["title"].startswith("NOW CRITICAL")
    watch.later(hours=1)
    still = watch.minute(watch.verdict(LATE, "fct_orders"))
    assert [message["title"].split(" after")[0] for message in still] == ["STILL CRITICAL"]
    # Who takes warnings alone was told of nothing else.
    (warned,) = [json.loads(line)["title"] for line in (watch.folder / "calm").open()]
    assert warned.startswith("WARNING")


def test_what_lasts_through_quiet_hours_is_told_once(watch: Watch) -> None:
    _quiet(watch, "{warning: 30m}")
    bad = watch.verdict(LATE, "fct_orders", State.WARNING)
    watch.minute(bad)
    watch.later(minutes=31)
    assert watch.minute(bad) == []
    watch.later(minutes=30)
    (told,) = watch.minute(bad)
    assert told["title"].startswith("STILL WARNING")
