"""Modules that are read at their first use."""

from __future__ import annotations

import subprocess
import sys


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


def test_a_deferred_module_is_read_at_its_first_use_and_is_whole_then() -> None:
    program = (
        "from quality.deferred import deferred\n"
        "with deferred('wsgiref.util'):\n"
        "    from wsgiref import util\n"
        "read = 'guess_scheme' in object.__getattribute__(util, '__dict__')\n"
        "print(read, util.guess_scheme({}), 'guess_scheme' in vars(util))\n"
    )
    assert _run(program) == "False http True"


def test_great_expectations_is_imported_without_the_statistics_and_charts_that_no_rule_asks_for() -> None:
    program = (
        "import sys\n"
        "from quality import expectations\n"
        "from transforms import registry\n"
        "expectations.suite(registry.table('dim_users'), ())\n"
        "print('scipy.stats._stats_py' in sys.modules, 'altair.vegalite' in sys.modules)\n"
    )
    assert _run(program) == "False False"
