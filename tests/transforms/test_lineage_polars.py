"""Every way that Polars has of making a column or choosing a row is told as what it is, or as made of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import polars as pl
import polars.selectors as cs
import pytest

from tests.transforms.conftest import ReadModels
from tests.transforms.test_lineage import told
from tests.transforms.test_model import POLARS
from transforms import catalog, lineage_polars
from transforms.contract import ContractError
from transforms.lineage_steps import Traced

NO_ROWS: dict[str, dict[str, Any]] = {
    "a": {"id": pl.Int64, "x": pl.Int64, "y": pl.Int64, "t": pl.Datetime, "s": pl.Struct({"p": pl.Int64})},
    "b": {"id": pl.Int64, "x": pl.Int64, "z": pl.Int64, "t": pl.Datetime},
}
Frame = Callable[[pl.LazyFrame, pl.LazyFrame], pl.LazyFrame]


def traced(frame: Frame, *names: str) -> Traced:
    a, b = (lineage_polars.marked(pl.DataFrame(schema=NO_ROWS[name]), name) for name in "ab")
    return lineage_polars.trace(frame(a, b), names)


def made(frame: Frame, name: str) -> dict[str, str]:
    return told(traced(frame, name), name)


@pytest.mark.parametrize(
    ("frame", "name", "expected"),
    [
        (lambda a, b: a.join(b, on="id", suffix="_b"), "x_b", {"b.x": "pass"}),
        (lambda a, b: a.join(b, on="id", suffix="_b"), "x", {"a.x": "pass"}),
        (lambda a, b: a.join(b, on="id", how="full", coalesce=True), "id", {"a.id": "pass", "b.id": "pass"}),
        (lambda a, b: a.join(b, on="id", how="full"), "id_right", {"b.id": "pass"}),
        (lambda a, b: a.join(b, on="id", how="full"), "id", {"a.id": "pass"}),
        (lambda a, b: a.join(b, on="id", how="right", coalesce=False), "id", {"a.id": "pass"}),
        (lambda a, b: a.join(b, on="id", how="right", coalesce=False), "id_right", {"b.id": "pass"}),
        (lambda a, b: a.join(b, on="id", how="right"), "id", {"b.id": "pass"}),
        (lambda a, b: a.join(b, left_on="x", right_on="z", how="right"), "x", {"b.x": "pass"}),
        (lambda a, b: a.join(b, left_on="x", right_on="z", how="right"), "id_right", {"b.id": "pass"}),
        (lambda a, b: a.join(b, on="id", how="semi"), "x", {"a.x": "pass"}),
        (lambda a, b: a.join_asof(b, on="t", by="id"), "z", {"b.z": "pass"}),
        (lambda a, b: pl.concat([a.select("x"), b.select("z")], how="horizontal"), "z", {"b.z": "pass"}),
        (lambda a, b: pl.concat([a, b.drop("z")], how="diagonal"), "x", {"a.x": "pass", "b.x": "pass"}),
        (lambda a, b: pl.concat([a, b], how="diagonal"), "z", {"b.z": "pass"}),
    ],
)  # fmt: skip
def test_a_column_of_two_frames_is_that_of_the_one_it_comes_from(
    frame: Frame, name: str, expected: dict[str, str]
) -> None:
    assert made(frame, name) == expected


@pytest.mark.parametrize(
    ("frame", "name", "expected"),
    [
        (lambda a, b: a.select(pl.lit(5) + pl.col("x")), "literal", {"a.x": "expression"}),
        (lambda a, b: a.select(pl.col("x").name.suffix("_k")), "x_k", {"a.x": "pass"}),
        (lambda a, b: a.select(pl.col("x").name.to_uppercase()), "X", {"a.x": "pass"}),
        (lambda a, b: a.select(pl.col("x", "y").name.map(lambda n: n + "q")), "yq", {"a.y": "pass"}),
        (lambda a, b: a.select((pl.col("x").alias("k") + 1).name.keep()), "x", {"a.x": "expression"}),
        (lambda a, b: a.group_by("id").agg(pl.col("x", "y").mean().name.suffix("_mean")), "y_mean",
         {"a.y": "aggregate"}),
        (lambda a, b: a.select(pl.col("x").cast(pl.Int8).name.keep()), "x", {"a.x": "pass"}),
        (lambda a, b: a.select(pl.lit(1).sum().alias("one")), "one", {}),
        (lambda a, b: a.group_by("id").first(), "x", {"a.x": "aggregate"}),
        (lambda a, b: a.group_by("id").agg(pl.col("x")), "x", {"a.x": "aggregate"}),
        (lambda a, b: a.group_by("id").agg(pl.lit(1).alias("one")), "one", {}),
        (lambda a, b: a.group_by("id").len(), "len", {"a.*": "aggregate"}),
        (lambda a, b: a.select(cs.by_name("x", "y") + 1), "y", {"a.y": "expression"}),
        (lambda a, b: a.select(pl.struct("x", "y").alias("k")), "k",
         {"a.x": "expression", "a.y": "expression"}),
        (lambda a, b: a.with_columns(n=pl.len().over("id")), "n",
         {"a.id": "expression", "a.*": "expression"}),
        (lambda a, b: a.select(pl.col("s").struct.field("p")), "p", {"a.s": "expression"}),
        (lambda a, b: a.select(pl.col("s").struct.unnest()), "p", {"a.s": "expression"}),
        (lambda a, b: a.unnest("s", separator="_"), "s_p", {"a.s": "expression"}),
        (lambda a, b: a.rename({"x": "y", "y": "x"}), "x", {"a.y": "pass"}),
        (lambda a, b: a.drop("s").max(), "x", {"a.x": "aggregate"}),
        (lambda a, b: a.with_row_index("n"), "n", {"a.*": "expression"}),
        (lambda a, b: a.unpivot(on=["x", "y"], index="id"), "value", {"a.x": "pass", "a.y": "pass"}),
        (lambda a, b: a.unpivot(on=["x", "y"], index="id"), "variable", {"a.*": "expression"}),
        (lambda a, b: a.unpivot(on=["x", "y"], index="id"), "id", {"a.id": "pass"}),
        (lambda a, b: a.pivot("y", on_columns=[1, 2], index="id", values="x", aggregate_function="sum"), "2",
         {"a.x": "aggregate", "a.y": "aggregate"}),
        (lambda a, b: a.pivot("y", on_columns=[1, 2], index="id", values="x", aggregate_function="sum"), "id",
         {"a.id": "pass"}),
        (lambda a, b: a.group_by_dynamic("t", every="1h").agg(pl.len()), "t", {"a.t": "expression"}),
        (lambda a, b: a.rolling("t", period="1h").agg(pl.len()), "t", {"a.t": "pass"}),
        (lambda a, b: a.with_columns(k=pl.concat_list("x")).explode("k"), "k", {"a.x": "expression"}),
        (lambda a, b: pl.LazyFrame({"k": [1]}), "k", {}),
    ],
)  # fmt: skip
def test_a_column_is_made_of_those_that_it_is_computed_from_and_of_no_other(
    frame: Frame, name: str, expected: dict[str, str]
) -> None:
    assert made(frame, name) == expected


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (lambda a, b: a.join(b, on="id"), {"a.id": "join", "b.id": "join"}),
        (lambda a, b: a.join_asof(b, on="t", by="id"), dict.fromkeys(("a.t", "b.t", "a.id", "b.id"), "join")),
        (lambda a, b: a.join_where(b, pl.col("y") > pl.col("x_right")), {"a.y": "join", "b.x": "join"}),
        (lambda a, b: a.group_by_dynamic("t", every="1h").agg(pl.len()), {"a.t": "group"}),
        (lambda a, b: a.unique(["id"]), {"a.id": "filter"}),
        (lambda a, b: a.select("x", "y").unique(), {"a.x": "group", "a.y": "group"}),
        (lambda a, b: a.sort("t").unique(["id"], keep="last"), {"a.id": "filter", "a.t": "filter"}),
        (lambda a, b: a.sort("y").head(3), {"a.y": "filter"}),
        (lambda a, b: a.top_k(3, by="y"), {"a.y": "filter"}),
        (lambda a, b: a.sort("y"), {}),
        (lambda a, b: a.with_columns(k=pl.concat_list("x", "y")).explode("k"),
         {"a.x": "filter", "a.y": "filter"}),
        (lambda a, b: a.group_by("id").having(pl.col("y").sum() > 1).agg(pl.len()),
         {"a.id": "group", "a.y": "filter"}),
        (lambda a, b: a.filter(pl.any_horizontal(cs.by_name("x", "y") > 1)),
         {"a.x": "filter", "a.y": "filter"}),
        (lambda a, b: a.pivot("y", on_columns=[1], index="id", values="x", aggregate_function="sum"),
         {"a.id": "group"}),
    ],
)  # fmt: skip
def test_whatever_chooses_rows_is_told(frame: Frame, expected: dict[str, str]) -> None:
    assert {str(origin): kind.word for origin, kind in traced(frame).conditions.items()} == expected


@pytest.mark.parametrize(("how", "rows"), [("inner", "ab"), ("left", "a"), ("semi", "a"), ("anti", "a")])
def test_what_is_only_looked_up_in_gives_no_rows(
    how: Literal["inner", "left", "semi", "anti"], rows: str
) -> None:
    assert traced(lambda a, b: a.join(b, on="id", how=how)).rows == tuple(rows)


@pytest.mark.parametrize(
    "frame",
    [
        lambda a, b: a.select("x", "y").map_batches(lambda d: d.rename({"x": "y", "y": "x"})),
        lambda a, b: a.select("x", "y").map_batches(lambda d: d, schema={"x": pl.Int64}),
        lambda a, b: a.select("x", "y").sql("select y as x from self"),
    ],
)
def test_what_python_or_sql_makes_is_told_as_made_of_all_that_it_is_given(frame: Frame) -> None:
    assert made(frame, "x") == {"a.x": "expression", "a.y": "expression"}


def test_functions_over_groups_are_made_of_all_that_they_are_given() -> None:
    def frame(a: pl.LazyFrame, b: pl.LazyFrame) -> pl.LazyFrame:
        return a.select("id", "x").group_by("id").map_groups(lambda d: d, schema={"id": pl.Int64})

    assert made(frame, "id") == {"a.id": "expression", "a.x": "expression"}


def test_a_model_that_looks_at_its_own_columns_is_followed_all_the_same() -> None:
    def frame(a: pl.LazyFrame, b: pl.LazyFrame) -> pl.LazyFrame:
        assert a.collect_schema().names() == list(NO_ROWS["a"])
        latest = a.sort("t")
        assert latest.collect_schema().names() == list(NO_ROWS["a"])
        return latest.unique(["id"], keep="last")

    found = traced(frame, "x")
    assert told(found, "x") == {"a.x": "pass"}
    assert {str(origin): kind.word for origin, kind in found.conditions.items()} == {
        "a.id": "filter",
        "a.t": "filter",
    }


def test_tables_of_the_same_columns_are_put_below_each_other() -> None:
    def frame(a: pl.LazyFrame, b: pl.LazyFrame) -> pl.LazyFrame:
        return pl.concat([a.drop("y", "s"), b.drop("z")])

    assert made(frame, "x") == {"a.x": "pass", "b.x": "pass"}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raw_app__users.select('id', 'email').collect().lazy()",
         r"build collects a frame \(id, email\), .* Keep it lazy to the end"),
        ("raw_app__users.select(user_id='id')", "build gives no column mail"),
        ("raw_app__users.select(user_id='nosuch')", "unable to find column .nosuch."),
        ("raw_app__users.select(mail=raw_app__users.collect()['email'].item())", ".*item"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_followed_is_named_with_the_reason_in_a_line(
    read_models: ReadModels, body: str, why: str
) -> None:
    before, _ = POLARS.split("    return ")
    models = read_models({"marts/mart_mail.py": f"{before}    return {body}\n"})
    with pytest.raises(ContractError, match=f"mart_mail.py: its column lineage can't be read: {why}") as no:
        catalog.lineage("mart_mail", models)
    assert "\n" not in str(no.value)
