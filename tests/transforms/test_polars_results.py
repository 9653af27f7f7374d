"""What a Polars model gives, beside what its TABLE declares."""

from __future__ import annotations

import pytest
from duckdb import DuckDBPyConnection

from tests.transforms.conftest import ReadModels
from tests.transforms.test_engine import USER
from tests.transforms.test_model import POLARS
from transforms import catalog, engine
from transforms.contract import ContractError
from transforms.engine import ModelError


@pytest.mark.parametrize(
    ("expression", "declared", "said"),
    [
        ("pl.lit(1.5)", "bigint", "mail as DOUBLE, and TABLE declares BIGINT: their decimals would be lost."),
        ("pl.lit(1.5).cast(pl.Decimal(10, 3))", "decimal(10, 2)", "as DECIMAL(10,3), and TABLE declares"),
        ("pl.lit(1.5).cast(pl.Decimal(10, 1))", "int", "as DECIMAL(10,1), and TABLE declares INTEGER"),
        ("pl.datetime(2025, 10, 7, 12)", "date", "and TABLE declares DATE: the time of day would be lost."),
        ("pl.lit(1).cast(pl.Int32)", "bigint", ""),
        ("pl.lit(1)", "decimal(10, 2)", ""),
        ("pl.lit(1.25)", "decimal(10, 2)", ""),
        ("pl.lit(1.25).cast(pl.Decimal(10, 2))", "double", ""),
        ("pl.lit(None)", "date", ""),
    ],
)
def test_what_values_would_lose_as_the_declared_type_is_told(
    read_models: ReadModels, duck: DuckDBPyConnection, expression: str, declared: str, said: str
) -> None:
    text = POLARS.replace('pl.col("email")', expression).replace('"text"', f'"{declared}"')
    models = read_models({"marts/mart_mail.py": text})
    if not said:
        assert engine.run("mart_mail", duck, {"raw_app__users": USER}, registry=models).fetchall()
        return
    with pytest.raises(ModelError) as caught:
        engine.run("mart_mail", duck, {"raw_app__users": USER}, registry=models)
    assert str(caught.value).startswith("marts/mart_mail.py: build gives mail as ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "said"),
    [("__import__('sys').exit(3)", "SystemExit: 3"), ("eval('1 +')", "SyntaxError: invalid syntax")],
)
def test_a_model_that_exits_or_can_not_be_compiled_fails_alone(
    read_models: ReadModels, duck: DuckDBPyConnection, expression: str, said: str
) -> None:
    """An exit would end the run without a word, and leave all other tables as they were."""
    models = read_models({"marts/mart_mail.py": POLARS.replace('pl.col("email")', expression)})
    with pytest.raises(ModelError) as caught:
        engine.run("mart_mail", duck, {"raw_app__users": USER}, registry=models)
    assert str(caught.value).startswith("marts/mart_mail.py:")
    assert said in str(caught.value)
    with pytest.raises(ContractError, match=r"^marts/mart_mail\.py: its column lineage can't be read"):
        catalog.lineage("mart_mail", models)


@pytest.mark.parametrize(("result", "kind"), [("{}.collect()", "DataFrame"), ("None and {}", "NoneType")])
def test_what_is_no_lazy_frame_is_told(
    read_models: ReadModels, duck: DuckDBPyConnection, result: str, kind: str
) -> None:
    before, _, returned = POLARS.partition("return ")
    models = read_models({"marts/mart_mail.py": f"{before}return {result.format(returned.rstrip())}\n"})
    with pytest.raises(ModelError, match=rf"^marts/mart_mail\.py: build gives a {kind}, where a lazy frame"):
        engine.run("mart_mail", duck, {"raw_app__users": USER}, registry=models)
