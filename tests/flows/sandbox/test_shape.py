"""What a world's sizes and seed make of it, before anything is delivered."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from flows.sandbox.world import clickstream, orders, people, sizes
from flows.sandbox.world.shape import BASE, DAY, DEFAULT_END, DEFAULT_SEED, Shape, micros

SHAPE = Shape(DEFAULT_SEED, micros(DEFAULT_END) - 10 * DAY, 10, 2_000, 600, 240, 2_400)


def test_the_same_seed_draws_the_same_world_and_another_seed_another() -> None:
    def drawn(shape: Shape) -> tuple[pl.DataFrame, pl.DataFrame]:
        known = pl.concat([people.users(shape, BASE), people.users(shape, 0)])
        placed = orders.orders(shape, 0, known)
        return placed, clickstream.messages(shape, 0, known, placed)

    for first, again, other in zip(drawn(SHAPE), drawn(SHAPE), drawn(replace(SHAPE, seed=1)), strict=True):
        assert first.equals(again)
        assert not first.equals(other)


@pytest.mark.parametrize("days", [1, 5, 30])
def test_a_day_holds_as_much_in_a_world_of_any_length(days: int) -> None:
    def a_day(shape: Shape) -> tuple[int, ...]:
        users, placed = shape.users_before(1) - shape.users_before(0), shape.orders_before(1)
        return shape.base_users, shape.events_per_day, users, placed

    known, events, users, placed = a_day(Shape(DEFAULT_SEED, 0, **sizes(23.4, days)))
    assert (known, events) == (70_200, 501_439)
    assert users == pytest.approx(2_000 * 23.4 / 14, abs=1)
    assert placed == pytest.approx(20_000 * 23.4 / 14, abs=1)
