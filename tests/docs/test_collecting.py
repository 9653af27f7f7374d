"""Where the generated company was taken away, tests that import what is gone fail; the others run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_file_that_imports_what_is_gone_fails_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "test_gone.py").write_text("from transforms.sources import nobody\n")
    (tmp_path / "test_there.py").write_text("def test_one() -> None:\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed, 1 error" in done.stdout
    assert "test_gone.py" in done.stdout
