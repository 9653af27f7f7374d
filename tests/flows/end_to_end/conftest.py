"""The generated company, whose every day is landed, modelled, checked and published."""

from __future__ import annotations

import pytest

from tests.flows.company import Company, Place
from tests.house import House


@pytest.fixture(scope="session")
def company(house: House) -> Company:
    """The generated company and what is built of it."""
    return Company(house)


@pytest.fixture
def built(company: Company) -> Place:
    """The warehouse and the lake after a whole batch. Only to be looked at."""
    return company.built()


@pytest.fixture
def copy(company: Company) -> Place:
    """A copy of them that a test may change and run on."""
    return company.copy()
