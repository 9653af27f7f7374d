"""Environments of the rivals, each made once: their pins conflict with ours, and with each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.server import CACHE

_SCRIPTS = Path(__file__).parent / "rivals"


def interpreter(name: str, version: str, requirements: Sequence[str]) -> Path:
    """The Python of an environment that holds these; `version` says when it has to be made anew."""
    folder = CACHE / name
    python, complete = folder / "bin" / "python", folder / f"complete-{version}"
    if complete.exists():
        return python
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"making the rivals' environment ({', '.join(requirements)})", file=sys.stderr, flush=True)
    uv = [sys.executable, "-m", "uv"]
    if subprocess.run([*uv, "--version"], capture_output=True, check=False).returncode == 0:
        make = [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        install = [*uv, "pip", "install", "--quiet", "--python", str(python), *requirements]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(folder)]
        install = [str(python), "-m", "pip", "install", "--quiet", *requirements]
    for command in (make, install):
        subprocess.run(command, check=True)
    complete.touch()
    return python


def seconds_of(python: Path, script: str, *arguments: str) -> float:
    """Run a rival's script; what it prints last are the seconds that count."""
    done = subprocess.run(
        [str(python), str(_SCRIPTS / script), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout.split()[-1])
