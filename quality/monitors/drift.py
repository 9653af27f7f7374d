"""How far the distribution of a column is from its usual one: one distance, judged against those before it.

Of a column of few values it is the share of rows that would have to change (total variation, 0 to 1). Of
numbers it is how far their quantiles have moved, in usual widths of the middle half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import fmean, median
from typing import TypeVar

from quality.monitors.sensitivity import Sensitivity
from quality.monitors.usual import LEAST_OF_SEASON, LEAST_POINTS, Judged, scatter

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LOWER, _MIDDLE, _UPPER = 1, 2, 3
_NOTHING = 1e-12
"""So little of a number, or of 1, is none: it is what reckoning in floats leaves."""


@dataclass(frozen=True)
class Shares:
    """A day's rows by value."""

    day: date
    counts: Mapping[str, int]

    @property
    def shares(self) -> dict[str, float]:
        """Value → share of the rows."""
        whole = sum(self.counts.values())
        return {value: count / whole for value, count in self.counts.items()} if whole else {}


@dataclass(frozen=True)
class Numbers:
    """A day's quantiles of a number, as `QUANTILES` names them."""

    day: date
    quantiles: tuple[float, ...]


_Day = TypeVar("_Day", Shares, Numbers)


def drift(history: Sequence[_Day], today: _Day, sensitivity: Sensitivity) -> Judged | None:
    """The distance of a day's distribution from the usual one of its weekday (of all days, while there are
    few), beside the distances of the days before.

    None where fewer than seven days came before.
    """
    before = [each for each in history if each.day < today.day and _has_rows(each)]
    if len(before) < LEAST_POINTS or not _has_rows(today):
        return None
    by_weekday: dict[int, list[_Day]] = {}
    for each in before:
        by_weekday.setdefault(each.day.weekday(), []).append(each)
    kinds = {weekday: days for weekday, days in by_weekday.items() if len(days) > LEAST_OF_SEASON}
    usual_of = {weekday: _middle(days) for weekday, days in kinds.items()}
    everything = _middle(before)

    def away(each: _Day) -> float:
        return _distance(each, usual_of.get(each.day.weekday(), everything))

    distances = [away(each) for each in before]
    expected = median(distances)
    high = expected + max(sensitivity.distance, sensitivity.deviations * scatter(distances))
    return Judged(away(today), expected, 0.0, high)


def _has_rows(day: Shares | Numbers) -> bool:
    return bool(day.shares) if isinstance(day, Shares) else len(day.quantiles) == len(QUANTILES)


def _middle(days: Sequence[Shares] | Sequence[Numbers]) -> Mapping[str, float] | tuple[float, ...]:
    shares = [day.shares for day in days if isinstance(day, Shares)]
    if shares:
        values = {value for each in shares for value in each}
        return {value: median(each.get(value, 0.0) for each in shares) for value in values}
    numbers = [day.quantiles for day in days if isinstance(day, Numbers)]
    return tuple(median(column) for column in zip(*numbers, strict=True))


def _distance(day: Shares | Numbers, middle: Mapping[str, float] | tuple[float, ...]) -> float:
    if isinstance(day, Shares):
        assert isinstance(middle, Mapping)
        shares = day.shares
        return sum(abs(shares.get(value, 0.0) - middle.get(value, 0.0)) for value in {*shares, *middle}) / 2
    assert isinstance(middle, tuple)
    least = _NOTHING * max(1.0, *map(abs, middle))
    widths = (middle[_UPPER] - middle[_LOWER], middle[-1] - middle[0], abs(middle[_MIDDLE]))
    width = next((width for width in widths if width > least), 1.0)
    return fmean(abs(now - then) for now, then in zip(day.quantiles, middle, strict=True)) / width
