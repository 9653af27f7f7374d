"""`python -m tests.benchmarks [--full | --last] [NAME …]`: measure, print, write results.json and README."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import (
    backfill,
    capture,
    changes,
    command_line,
    daily,
    following,
    history,
    leaf,
    loads,
    monitors,
    portal,
    raw_json,
    readme,
    stream,
)
from tests.benchmarks.measure import Result, machine
from tests.benchmarks.server import Server, warehouse_server

BENCHMARKS: dict[str, Callable[[Server, bool], Iterator[Result]]] = {
    "help": command_line.run,
    "leaf": leaf.run,
    "loads": loads.run,
    "raw-json": raw_json.run,
    "history": history.run,
    "daily": daily.run,
    "stream": stream.run,
    "stream-steady": stream.run_steadily,
    "cdc-live": following.run,
    "cdc-snapshot": capture.run,
    "backfill": backfill.run,
    "cdc-merge": changes.run_few,
    "cdc-changes": changes.run_many,
    "monitors": monitors.run,
    "monitor": monitors.run_look,
    "first-paint": portal.run,
}
RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Exit code 1 when a target is (`--last`: was) missed; 2 when a benchmark has no such name."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Speed, as ratios.")
    parser.add_argument(
        "--full",
        action="store_true",
        help="more rounds, the 50,000,000-event backfill, half an hour of the stream",
    )
    parser.add_argument("--last", action="store_true", help="measure nothing: what was measured last")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHMARKS)}")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no benchmark {sorted(unknown)[0]}; there are {', '.join(BENCHMARKS)}")
    results = _known()
    if arguments.last:
        held = [result["holds"] for benchmark in results.values() for result in benchmark["results"]]
        print(f"{readme.table(results)}\n{sum(held)} of {len(held)} targets are met.")
        return 0 if all(held) else 1
    measured: list[Result] = []
    with warehouse_server() as server:
        about = machine(postgresql=server.version, dlt=loads.DLT)
        for name in arguments.names or BENCHMARKS:
            begun = time.perf_counter()
            print(f"{name} …", file=sys.stderr, flush=True)
            found = list(BENCHMARKS[name](server, arguments.full))
            measured += found
            if found:
                results[name] = {"machine": about, "results": [result.as_json() for result in found]}
            results = {known: results[known] for known in BENCHMARKS if known in results}
            # After each: what was measured stays when a later one fails.
            RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    readme.write(results)
    _show(measured, about)
    return 0 if all(result.holds for result in measured) else 1


def _known() -> dict[str, Any]:
    """What earlier runs measured: a run renews what it measures, and each entry names its machine."""
    if not RESULTS.exists():
        return {}
    known: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return known


def _show(results: list[Result], about: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title=", ".join(f"{key} {value}" for key, value in about.items()), title_justify="left")
    for heading in ("what", "measured", "target", ""):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for result in results:
        sign = "≤" if result.bound == "at most" else "≥"
        aim = f" (aim {result.aim:g})" if result.aim is not None else ""
        table.add_row(
            result.claim,
            f"{result.value:.2f} {result.unit}",
            f"{sign} {result.target:g} {result.unit}{aim}",
            "met" if result.holds else "MISSED",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
