"""Numbers of rows: of a day against its weekday, of an hour against the same hour of that weekday.

Counts are compared as logarithms of their ratio to the level of the week before, so growth is no anomaly, a
weekend is none, and after a lasting change the new level is usual within a week.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import cache
from itertools import pairwise
from statistics import median

from quality.monitors.sensitivity import Sensitivity
from quality.monitors.usual import Judged, usual

WEEKS = 8
"""How far back a season is remembered."""
_LEVEL_DAYS = 7
_LEAST_LEVEL_DAYS = 3
_LEAST_SCATTER = 0.02
"""No table is steadier than this from day to day, whatever its last weeks looked like."""
_HOURLY = 1.3
"""How many times as far from usual an hour must be as a day: it is judged 24 times as often."""
_DAY = timedelta(days=1)


class Volumes:
    """The rows of a table by day, and where they are known by hour; what comes after a moment has no say in
    it. A day without an entry between two others had no rows.
    """

    def __init__(self, days: Mapping[date, int], hours: Mapping[datetime, int] | None = None) -> None:
        self._days = dict(days)
        self._hours = dict(hours or {})
        self._levels = cache(self._levels_before)
        self._begin = cache(self._beginning)

    def day(self, day: date, sensitivity: Sensitivity) -> Judged | None:
        """The rows of a day beside those of the days before; None where fewer than seven of them tell."""
        past = self._past(day)
        return self._judge(
            day, {each: self._days.get(each, 0) for each in past}, self._days.get(day, 0), sensitivity
        )

    def hour(self, hour: datetime, sensitivity: Sensitivity) -> Judged | None:
        """The rows of one hour (its start, UTC) beside those of the same hour of the days before."""
        day, clock = hour.date(), hour.timetz()
        same = {each: self._hours.get(datetime.combine(each, clock), 0) for each in self._past(day)}
        of_hours = replace(sensitivity, deviations=sensitivity.deviations * _HOURLY)
        return self._judge(day, same, self._hours.get(hour, 0), of_hours)

    def _judge(
        self, day: date, past: Mapping[date, int], rows: int, sensitivity: Sensitivity
    ) -> Judged | None:
        levels = self._levels(day)
        history = [
            (each.weekday(), _log(count) - levels[each]) for each, count in past.items() if each in levels
        ]
        found = usual(history, day.weekday())
        if found is None or day not in levels:
            return None
        expected = max(0.0, math.exp(levels[day] + found.expected) - 0.5)
        return _bounds(rows, expected, found.scatter, sensitivity)

    def _past(self, day: date) -> list[date]:
        """The days before that count, from the first one with an entry on."""
        begin = max(self._begin(day), day - WEEKS * 7 * _DAY)
        return [begin + number * _DAY for number in range((day - begin).days)]

    def _beginning(self, day: date) -> date:
        """The first day of the unbroken past: what was before a week without a row is another time."""
        begin = day
        for each in sorted((each for each in self._days if each < day), reverse=True):
            if (begin - each).days > _LEVEL_DAYS + 1:
                break
            begin = each
        return begin

    def _levels_before(self, day: date) -> dict[date, float]:
        """What a day's level was, for the days before and this one: the middle of the week before it, once
        weekdays are made alike. As a logarithm.
        """
        counts = {each: _log(self._days.get(each, 0)) for each in self._past(day)}
        rough = {each: _week(counts, each) for each in (*counts, day)}
        weekdays: dict[int, list[float]] = {}
        for each, count in counts.items():
            level = rough[each]
            if level is not None:
                weekdays.setdefault(each.weekday(), []).append(count - level)
        factors = {weekday: median(found) for weekday, found in weekdays.items()}
        alike = {each: count - factors.get(each.weekday(), 0.0) for each, count in counts.items()}
        levels = {each: _week(alike, each) for each in (*counts, day)}
        return {each: level for each, level in levels.items() if level is not None}


def judge_change(before: Sequence[int], rows: int, sensitivity: Sensitivity) -> Judged | None:
    """The rows of a table without windows beside its own past (oldest first): how much it grows or shrinks
    from one time to the next. None where fewer than seven steps are known.
    """
    steps = [("", _log(after) - _log(earlier)) for earlier, after in pairwise(before)]
    found = usual(steps, "")
    if found is None:
        return None
    expected = max(0.0, math.exp(_log(before[-1]) + found.expected) - 0.5)
    return _bounds(rows, expected, found.scatter, sensitivity, by_chance=False)


def _bounds(
    rows: int, expected: float, scatter: float, sensitivity: Sensitivity, *, by_chance: bool = True
) -> Judged:
    """`by_chance`: few rows scatter by themselves, a count of n by its square root."""
    least = 1 / math.sqrt(expected + 1) if by_chance else 0.0
    reach = sensitivity.deviations * max(scatter, least, _LEAST_SCATTER)
    worth = sensitivity.volume * expected
    low = min((expected + 0.5) * math.exp(-reach) - 0.5, expected - worth)
    high = max((expected + 0.5) * math.exp(reach) - 0.5, expected + worth)
    return Judged(float(rows), expected, max(0.0, low), high)


def _log(count: float) -> float:
    return math.log(count + 0.5)


def _week(figures: Mapping[date, float], day: date) -> float | None:
    """The median of the seven days before: it holds each weekday once, so a weekend does not move it."""
    week = [
        figures[day - number * _DAY] for number in range(1, _LEVEL_DAYS + 1) if day - number * _DAY in figures
    ]
    return median(week) if len(week) >= _LEAST_LEVEL_DAYS else None
