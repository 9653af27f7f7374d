"""A kill -9 anywhere in a run, and one ordinary run again: the same rows, nothing left over.

The places are the failpoints that stand in the code; one that no scenario reaches fails the test.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import psycopg
import pytest

from flows import failpoints
from tests.flows.kill_child import Place
from tests.flows.kill_compare import Seen, differences, seen
from tests.flows.kill_world import (
    ROOT,
    KillWorld,
    Stage,
    count,
    kill,
    kill_world,
    run,
    run_with,
)
from tests.house import Server

QUICK = (
    "landing.written",
    "build.written",
    "publish.before_commit",
    "build.before_commit",
    "publish.committed",
)
SCENARIOS = ("first", "second", "backfill", "migration", "retirement")
SEED = 20251103
MUCH_LATER = "2028-10-30T12:00:00+00:00"
"""When the first days of the world are older than the declared retention of 1,095 days."""


@dataclass
class Story:
    """The stages of one world, made when first asked for, and what an unharmed run makes of them."""

    world: KillWorld

    def __post_init__(self) -> None:
        self.world.create()
        self._before = self.world.place()
        run(self._before)
        # From here on the sources stand still: every later run reads the same.
        self.world.advance()
        self._unharmed: dict[str, tuple[Seen, dict[str, int]]] = {}

    def stage(self, name: str) -> Stage:
        """What stands before the run that is killed."""
        stages: dict[str, Callable[[], Stage]] = {
            "first": lambda: Stage("first", replace(self._before, now=self.world.now)),
            "second": lambda: self.world.stage("second", self._before),
            "backfill": lambda: self.world.stage(
                "backfill", self._after, backfill=("2025-11-01", "2025-11-03")
            ),
            "migration": lambda: self.world.stage("migration", self._older),
            "retirement": lambda: self.world.stage("retirement", self._after, sources=(), now=MUCH_LATER),
        }
        return stages[name]()

    @cached_property
    def _after(self) -> Place:
        place = self.world.copy(self.stage("second"))
        run(place)
        return place

    @cached_property
    def _older(self) -> Place:
        """What an older version of the models has made of the same sources."""
        place = self.world.place()
        done = run_with(older_models(self.world.folder), place)
        assert done.returncode == 0, done.stderr
        return place

    def unharmed(self, name: str) -> tuple[Seen, dict[str, int]]:
        """What stands after the run that nobody killed, and how often it passed each failpoint."""
        if name not in self._unharmed:
            place = self.world.copy(self.stage(name))
            passed = count(place)
            self._unharmed[name] = (seen(place), passed)
        return self._unharmed[name]

    def killed(self, name: str, failpoint: str, passes: int) -> list[str]:
        """Kill the run there, run once more; what is not equal then."""
        place = self.world.copy(self.stage(name))
        if not kill(place, failpoint, passes):
            return [f"{failpoint} was not passed {passes + 1} times"]
        run(place)
        found = differences(self.unharmed(name)[0], seen(place))
        if not found:
            self.world.remove(place)
        return found


def altered(folder: Path, name: str, changes: Mapping[str, tuple[str, str]]) -> Path:
    """A copy of the package `transforms` in which some model files read otherwise; for `run_with`."""
    root = folder / name
    shutil.copytree(ROOT / "transforms", root / "transforms", ignore=shutil.ignore_patterns("__pycache__"))
    for path, (old, new) in changes.items():
        file = root / "transforms" / path
        text = file.read_text()
        assert text.count(old) == 1, f"{path} has no single {old!r} any more: adapt this test"
        file.write_text(text.replace(old, new))
    return root


def older_models(folder: Path) -> Path:
    """Models from which the present ones differ in a new column, and in columns that are gone."""
    order = "    discount_amount::decimal(12,2) as discount_amount,\n"
    member, fee = "    is_deleted::boolean as is_deleted,", "    fees.fee_minor::bigint as fee_minor,"
    return altered(
        folder,
        "older",
        {
            "facts/fct_orders.sql": (order, ""),
            "dimensions/dim_users.sql": (member, f"    1::integer as shoe_size, -- Dropped since\n{member}"),
            "facts/fct_payments.sql": (fee, f"    'x'::varchar as note, -- Dropped since\n{fee}"),
        },
    )


@pytest.fixture(scope="module")
def story(postgres18: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with kill_world(postgres18, tmp_path_factory.mktemp("kills")) as world:
        yield Story(world)


def _kill_all(story: Story, cases: list[tuple[str, str, int]]) -> None:
    """Each case in a warehouse of its own, as many at once as there are processors."""
    for name in {name for name, _, _ in cases}:
        story.unharmed(name)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(lambda case: story.killed(*case), cases)
    failures = [
        f"killed at {name}, pass {passes}, in the {scenario} run: {line}"
        for (scenario, name, passes), lines in zip(cases, outcomes, strict=True)
        for line in lines
    ]
    assert not failures, "\n".join(failures)


def test_a_kill_at_the_turning_points_of_a_second_run_loses_nothing(story: Story) -> None:
    passed = story.unharmed("second")[1]
    _kill_all(story, [("second", name, passed[name] // 2) for name in QUICK])


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_failpoint_loses_nothing(story: Story, scenario: str) -> None:
    """The first and last time it is passed in the run that meets most of them, elsewhere one of the times."""
    passed = story.unharmed(scenario)[1]
    chance = random.Random(f"{SEED} {scenario}")
    cases = [
        (scenario, name, at)
        for name, times in sorted(passed.items())
        for at in sorted({0, times - 1} if scenario == "second" else {chance.randrange(times)})
    ]
    _kill_all(story, cases)


def _strict(story: Story) -> Path:
    """The same models with a rule that every order breaks."""
    folder = story.world.folder / "strict"
    rule = "  - between: {column: quantity, min: 1}"
    if folder.exists():
        return folder
    return altered(
        story.world.folder, "strict", {"facts/fct_orders.sql": (rule, rule.replace("1}", "1000}"))}
    )


def test_a_kill_while_failing_rows_are_put_aside_leaves_no_half_file(story: Story) -> None:
    place = story.world.copy(story.stage("second"))
    killed = run_with(_strict(story), place, "quarantine.written")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run(place)
    assert differences(story.unharmed("second")[0], seen(place)) == []
    assert [path.name for path in Path(place.lake, "quarantine").rglob("*") if path.is_file()] == []


@pytest.mark.full
def test_a_failed_check_leaves_what_is_published_as_it_was(story: Story) -> None:
    stage = story.stage("second")
    before = story.world.copy(stage)
    place = story.world.copy(stage)
    failed = run_with(_strict(story), place)
    assert failed.returncode == 1
    assert "CheckFailed: fct_orders: rule" in failed.stderr
    for name in ("fct_orders", "mart_daily_revenue"):
        assert _rows(place, name) == _rows(before, name)
    assert len(list(Path(place.lake, "quarantine", "fct_orders").glob("*.parquet"))) == 1


def _rows(place: Place, name: str) -> list[str]:
    with psycopg.connect(place.warehouse_dsn) as connection:
        return [
            str(row[0])
            for row in connection.execute(
                f"select t::text from analytics.{name} t order by 1".encode()
            ).fetchall()
        ]


@pytest.mark.full
def test_every_failpoint_in_the_code_is_reached(story: Story) -> None:
    reached = {name for scenario in SCENARIOS for name in story.unharmed(scenario)[1]}
    reached.add("quarantine.written")
    assert sorted(set(failpoints.names(ROOT / "flows")) - reached) == []
    assert len(reached) >= 25
