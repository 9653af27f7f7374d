"""Every model gives what its rows in tests/transforms/<layer>/<table>.yaml say."""

from __future__ import annotations

from pathlib import Path

import pytest
from duckdb import DuckDBPyConnection

from tests.transforms.given_expect import Case, cases, difference
from transforms import registry
from transforms.contract import Table

HERE = Path(__file__).parent
MODELS = registry.build_order()
CASES = [case for path in sorted(HERE.glob("*/*.yaml")) for case in cases(path)]


@pytest.mark.parametrize("table", MODELS, ids=lambda table: table.name)
def test_every_model_has_given_and_expected_rows(table: Table) -> None:
    path = HERE / table.layer.value / f"{table.name}.yaml"
    assert path.is_file(), (
        f"{table.name} has no case. Write tests/transforms/{table.layer.value}/{path.name}."
    )
    assert cases(path), f"{path.name} has no case. Write at least one with name, given and expect."


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.table}: {case.name}")
def test_a_model_gives_what_is_expected(case: Case, duck: DuckDBPyConnection) -> None:
    found = difference(case, duck, registry.default())
    assert not found, f"{case.table}, '{case.name}':\n{found}"
