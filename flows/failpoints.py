"""Named places where a test can kill the process, to prove that nothing is lost there.

A name is written once, at its place in the code (`failpoint("publish.committed")`); tests list the names
from the code itself, so one that no test reaches is found. Unarmed, a failpoint costs two comparisons.
"""

from __future__ import annotations

import ast
import os
import signal
from collections import Counter
from pathlib import Path

_armed: str | None = None
_passes_left = 0
_passed: Counter[str] | None = None


def arm(name: str | None, passes: int = 0) -> None:
    """Let the process die by SIGKILL at the failpoint `name`, after it was passed `passes` times; None
    disarms.
    """
    global _armed, _passes_left
    _armed, _passes_left = name, passes


def count(into: Counter[str] | None) -> None:
    """Count in `into` how often each failpoint is passed, so that a test knows where a run can die."""
    global _passed
    _passed = into


def failpoint(name: str) -> None:
    """Die here if this failpoint is armed: no handler, no flush, as a power cut would do it."""
    global _passes_left
    if _passed is not None:
        _passed[name] += 1
    if _armed != name:
        return
    if _passes_left > 0:
        _passes_left -= 1
        return
    os.kill(os.getpid(), signal.SIGKILL)


def names(root: Path) -> list[str]:
    """Every failpoint written in the Python files below `root`, sorted."""
    found: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        # Few have one, and to parse all of them takes long.
        for node in ast.walk(ast.parse(text if "failpoint(" in text else "")):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "failpoint"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                found.add(str(node.args[0].value))
    return sorted(found)
