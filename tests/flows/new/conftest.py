"""What the tests of `new` stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.new.begun import Begun


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    """A copy of the project's models."""
    return Begun(tmp_path / "project")
