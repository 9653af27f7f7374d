"""A kill -9 anywhere in a run, and one ordinary run again: the same rows, nothing left over.

The places are the failpoints that stand in the code; one that no scenario reaches fails the test.
"""

from __future__ import annotations

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows import failpoints
from tests.flows.kill_compare import differences, seen
from tests.flows.kill_story import Story, altered
from tests.flows.kill_world import ROOT, run, run_with

pytestmark = pytest.mark.full

QUICK = (
    "landing.written",
    "build.written",
    "publish.before_commit",
    "build.before_commit",
    "publish.committed",
)
SCENARIOS = ("second", "first", "backfill", "migration", "retirement")
SEED = 20251103


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


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_failpoint_loses_nothing(story: Story, scenario: str) -> None:
    """Every failpoint once, in the first scenario that reaches it, at one of the times it is passed."""
    earlier = SCENARIOS[: SCENARIOS.index(scenario)]
    met = {name for other in earlier for name in story.unharmed(other)[1]}
    chance = random.Random(f"{SEED} {scenario}")
    cases = [
        (scenario, name, chance.randrange(times))
        for name, times in sorted(story.unharmed(scenario)[1].items())
        if name not in met
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


def test_every_failpoint_in_the_code_is_reached(story: Story) -> None:
    reached = {name for scenario in SCENARIOS for name in story.unharmed(scenario)[1]}
    reached.add("quarantine.written")
    elsewhere = set(failpoints.names(ROOT / "flows" / "streaming"))  # tests/flows/streaming reaches these
    # tests/flows/streaming, maintenance, erasure, test_rebuild_as_of.py and test_other_partitions.py these
    own = ("joint.", "fold.", "drop.", "erase.", "as_of.", "layout.")
    elsewhere |= {name for name in failpoints.names(ROOT / "flows") if name.startswith(own)}
    elsewhere |= set(failpoints.names(ROOT / "flows" / "recovery"))  # test_backup.py, test_recovery.py these
    elsewhere.add("masking.moved")  # tests/flows/stores/test_masking.py this one
    elsewhere |= set(failpoints.names(ROOT / "flows" / "extract" / "embedded"))  # test_cdc_embedded.py these
    assert sorted(set(failpoints.names(ROOT / "flows")) - reached - elsewhere) == []
    assert len(reached) >= 25
