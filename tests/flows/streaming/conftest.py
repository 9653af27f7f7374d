"""Who is streamed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.streaming.changes import Company
from tests.house import House


@pytest.fixture(scope="module")
def company(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """One company for the tests of this module; each begins where everything is shown."""
    made = Company.build(house, tmp_path_factory.mktemp("company"))
    try:
        yield made
    finally:
        made.capture.end()
