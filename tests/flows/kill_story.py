"""The stages a run can be killed in, and what an unharmed run makes of each of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pytest

from tests.flows.kill_child import Place
from tests.flows.kill_compare import Seen, differences, seen
from tests.flows.kill_world import ROOT, KillWorld, Stage, count, kill, kill_world, run, run_with
from tests.house import House

MUCH_LATER = "2028-10-30T12:00:00+00:00"
"""When the first days of the world are older than the declared retention of 1,095 days."""


@dataclass
class Story:
    """The stages of one world, made when first asked for, and what an unharmed run makes of them."""

    world: KillWorld

    _unharmed: dict[str, tuple[Seen, dict[str, int]]] = field(default_factory=dict, repr=False)

    @cached_property
    def _before(self) -> Place:
        """What the first run made of the first days. From then on the sources stand still, a day further."""
        self.world.create()
        place = self.world.place()
        run(place)
        self.world.advance()
        return place

    def stage(self, name: str) -> Stage:
        """What stands before the run that is killed."""
        before = self._before
        stages: dict[str, Callable[[], Stage]] = {
            "first": lambda: Stage("first", replace(before, now=self.world.now)),
            "second": lambda: self.world.stage("second", before),
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


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One small company for every test that harms a run, on a server of its own: where one database's disk
    is full, no checkpoint of any succeeds.
    """
    own = House(tmp_path_factory.mktemp("house") / "sandbox", "main")
    try:
        with kill_world(own.server(), tmp_path_factory.mktemp("kills")) as world:
            yield Story(world)
    finally:
        own.leave()
        own.end()
