"""What a stream left of tables that nothing declares any more is told, and goes with `maintain --drop`."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from flows import finish
from flows.__main__ import main
from flows.progress import Progress
from flows.summary import Summary
from tests.flows.streaming.topics import Topics
from tests.house import House
from transforms import registry
from transforms.registry import Registry

pytestmark = pytest.mark.full

COUNTS = "user_event_counts"


def test_what_a_stream_left_is_told_by_checks_and_runs_until_it_is_removed(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    topics = Topics.build(house, tmp_path)
    topics.send(topics.event(number) for number in range(20))
    topics.stream()
    monkeypatch.setenv("ANALYTICS_WAREHOUSE_DSN", topics.world.warehouse_dsn)
    monkeypatch.setenv("ANALYTICS_LAKE", str(topics.world.lake))
    monkeypatch.setenv("ANALYTICS_KAFKA_BOOTSTRAP", topics.world.kafka_bootstrap)
    known = registry.default()
    gone = {*(entity.table for entity in topics.entities), COUNTS}
    for entity in topics.entities:
        gone |= set(known.downstream(entity.table))
    models = {name: model for name, model in known.models.items() if name not in gone}
    entities = {name: one for name, one in known.entities.items() if name not in gone}

    def told() -> list[str]:
        assert main(["check", "--stream"]) in (0, 1)
        (by_check,) = [
            line for line in capsys.readouterr().out.splitlines() if line.startswith("A stream wrote of ")
        ] or [""]
        summary = Summary(run_id="run", flow="analytics_pipeline")
        services = topics.world.services()
        with services.lake, Progress("run") as progress:
            finish.run(services, [], summary, progress)
        by_run = [line for line in summary.warnings if line.startswith("A stream wrote of ")] or [""]
        assert by_run == [by_check]
        return by_check.removeprefix("A stream wrote of ").partition(", which")[0].split(", ")

    assert told() == [""]
    with mock.patch.object(registry, "default", return_value=Registry(models, entities)):
        left = told()
        assert {"fct_events", *(one.table for one in topics.entities)} <= set(left) <= gone
        for name in sorted({*left, COUNTS}):
            assert main(["maintain", "--drop", name, "--yes"]) == 0, capsys.readouterr().err
        assert told() == [""]
    for beside in ("added", "late", "vanished"):
        assert topics.rows(f"select to_regclass('ops.{COUNTS}_{beside}')::text") == [(None,)]
