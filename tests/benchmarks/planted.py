"""A seeded year of a company's figures, and 60 anomalies planted in it; what each is and how large is stated.

The year grows by half, has weekends, nights and campaigns, and scatters as counts and people do. Ten times
an old day is backfilled, which is no anomaly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

FIRST = date(2025, 1, 1)
DAYS = 365
WARM_UP = 63
"""Days before the first anomaly: what is usual has to be learned first."""
_SCATTER = 0.025
"""Of every count from day to day, beside chance."""
_ODDS_SCATTER = 0.015
"""The same of the odds of every rate of nulls."""

EVENTS, ORDERS, EMAILS = "fct_events", "fct_orders", "fct_emails"
_A_DAY = {EVENTS: 500_000.0, ORDERS: 30_000.0, EMAILS: 25_000.0}
_WEEK = {
    EVENTS: (1.0, 1.02, 1.03, 1.01, 0.98, 0.72, 0.66),
    ORDERS: (1.0, 0.97, 0.98, 1.02, 1.15, 1.2, 1.05),
    EMAILS: (1.3, 1.1, 1.1, 1.1, 1.0, 0.4, 0.35),
}
_NULLS = {
    "user_id": (0.31, 0.03),
    "page": (0.012, 0.0),
    "session_id": (0.001, 0.0),
    "coupon_code": (0.82, 0.02),
}
"""Column → its rate of nulls, and how much more of them there are at weekends."""
_COPIES = {"clicks": 0.004, "page_views": 0.001, "user_events": 0.010}
_KINDS = {
    "page_view": 50,
    "click": 30,
    "order_placed": 6,
    "search": 6,
    "add_to_cart": 4,
    "sign_in": 3,
    "sign_up": 1,
}
_CURRENCIES = {"EUR": 40, "USD": 37, "JPY": 12, "GBP": 6, "CHF": 3, "SEK": 2}
_PRICES = (8.0, 31.0, 74.0, 160.0, 420.0)


@dataclass(frozen=True)
class Planted:
    """One anomaly: what (`subject` of `signal`), when (`hour` of the day, or the whole of it), how large."""

    signal: str
    subject: str
    day: date
    size: str
    hour: int | None = None


@dataclass
class Year:
    """What would have been measured. Counts by hour; (part, whole) of rates; counts by value; quantiles."""

    hours: dict[str, dict[datetime, int]] = field(default_factory=dict)
    nulls: dict[str, dict[date, tuple[int, int]]] = field(default_factory=dict)
    copies: dict[str, dict[date, tuple[int, int]]] = field(default_factory=dict)
    shares: dict[str, dict[date, dict[str, int]]] = field(default_factory=dict)
    numbers: dict[str, dict[date, tuple[float, ...]]] = field(default_factory=dict)
    planted: list[Planted] = field(default_factory=list)
    backfilled: list[tuple[date, str, date, float]] = field(default_factory=list)
    """On a day the rows of an earlier day of a table become so many times as many."""

    def days(self, table: str) -> dict[date, int]:
        """Rows of a table by day."""
        found: dict[date, int] = {}
        for moment, count in self.hours[table].items():
            found[moment.date()] = found.get(moment.date(), 0) + count
        return found


def year(seed: int) -> Year:
    """The same seed gives the same year."""
    chance = random.Random(seed)
    made = Year()
    _company(chance, made)
    _plant(chance, made)
    for _ in range(10):
        day = FIRST + timedelta(days=chance.randrange(WARM_UP, DAYS))
        old = day - timedelta(days=chance.randrange(20, 50))
        made.backfilled.append((day, chance.choice(list(_A_DAY)), old, chance.choice([0.7, 1.3])))
    return made


# ------------------------------------------------------------------------------------------------ the year


def _company(chance: random.Random, made: Year) -> None:
    campaign = 1.0
    for number in range(DAYS):
        day = FIRST + timedelta(days=number)
        growth = 1.5 ** (number / DAYS)
        campaign += 0.1 * (1 - campaign) + chance.gauss(0, 0.008)
        rows_of = {}
        for table, rows in _A_DAY.items():
            level = rows * growth * campaign * _WEEK[table][day.weekday()]
            level *= math.exp(chance.gauss(0, _SCATTER))
            rows_of[table] = _by_hour(chance, made, table, day, level)
        _rates(chance, made, day, rows_of)


def _by_hour(chance: random.Random, made: Year, table: str, day: date, level: float) -> int:
    sun = 13 if day.weekday() < 5 else 16
    weights = [math.exp(1.3 * math.cos((hour - sun) / 24 * 2 * math.pi)) for hour in range(24)]
    there = made.hours.setdefault(table, {})
    total = 0
    for hour, weight in enumerate(weights):
        count = _chance(chance, level * weight / sum(weights) * math.exp(chance.gauss(0, 0.03)))
        there[_moment(day, hour)] = count
        total += count
    return total


def _rates(chance: random.Random, made: Year, day: date, rows: Mapping[str, int]) -> None:
    is_weekend = day.weekday() >= 5
    for column, (rate, more) in _NULLS.items():
        of = rows[ORDERS if column == "coupon_code" else EVENTS]
        odds = (rate + more * is_weekend) / (1 - rate - more * is_weekend)
        odds *= math.exp(chance.gauss(0, _ODDS_SCATTER))
        now = odds / (1 + odds)
        made.nulls.setdefault(column, {})[day] = (min(of, _chance(chance, of * now)), of)
    for topic, rate in _COPIES.items():
        of = rows[EVENTS] // 3
        part = _chance(chance, of * rate * math.exp(chance.gauss(0, 0.1)))
        made.copies.setdefault(topic, {})[day] = (part, of)
    for column, weights, of in (
        ("event_type", _KINDS, rows[EVENTS]),
        ("currency", _CURRENCIES, rows[ORDERS]),
    ):
        parts = {value: weight * math.exp(chance.gauss(0, 0.03)) for value, weight in weights.items()}
        if column == "event_type" and is_weekend:
            parts["order_placed"] *= 1.3
        made.shares.setdefault(column, {})[day] = {
            value: _chance(chance, of * part / sum(parts.values())) for value, part in parts.items()
        }
    dearer = math.exp(chance.gauss(0, 0.02))
    made.numbers.setdefault("revenue", {})[day] = tuple(
        price * dearer * math.exp(chance.gauss(0, 0.02)) for price in _PRICES
    )


def _chance(chance: random.Random, expected: float) -> int:
    """A count that is so much on average."""
    return max(0, round(chance.gauss(expected, math.sqrt(max(expected, 0.25)))))


def _moment(day: date, hour: int) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


# -------------------------------------------------------------------------------------------- the anomalies


def _plant(chance: random.Random, made: Year) -> None:
    """60 of them, each on a day of its own for what it harms."""
    taken: set[tuple[str, date]] = set()

    def somewhere(names: list[str]) -> tuple[str, date]:
        while True:
            found = chance.choice(names), FIRST + timedelta(days=chance.randrange(WARM_UP, DAYS))
            near = {(found[0], found[1] + timedelta(days=away)) for away in (-1, 0, 1)}
            if not near & taken:
                taken.add(found)
                return found

    def volume(count: int, size: str, factor: float) -> None:
        for _ in range(count):
            table, day = somewhere(list(_A_DAY))
            for hour in range(24):
                made.hours[table][_moment(day, hour)] = round(made.hours[table][_moment(day, hour)] * factor)
            made.planted.append(Planted("row_count", table, day, size))

    def an_hour(count: int, size: str, factor: float) -> None:
        for _ in range(count):
            table, day = somewhere([EVENTS, EMAILS])
            moment = _moment(day, chance.randrange(7, 22))
            made.hours[table][moment] = round(made.hours[table][moment] * factor)
            made.planted.append(Planted("row_count", table, day, size, moment.hour))

    def rate(count: int, signal: str, of: dict[str, dict[date, tuple[int, int]]], points: float) -> None:
        for _ in range(count):
            name, day = somewhere(list(of))
            part, rows = of[name][day]
            of[name][day] = (min(rows, part + round(rows * points)), rows)
            made.planted.append(Planted(signal, name, day, f"+{points * 100:g} points"))

    volume(10, "-20 % of a day's rows", 0.8)
    volume(5, "+30 % of a day's rows", 1.3)
    volume(5, "no rows on a day", 0.0)
    an_hour(8, "-40 % of an hour's rows", 0.6)
    an_hour(4, "no rows in an hour", 0.0)
    rate(12, "null_rate", made.nulls, 0.03)
    rate(8, "duplicate_rate", made.copies, 0.02)
    _move_values(chance, made, somewhere, 5)
    for _ in range(3):
        name, day = somewhere(["revenue"])
        made.numbers[name][day] = tuple(value * 1.5 for value in made.numbers[name][day])
        made.planted.append(Planted("drift", name, day, "prices half as high again"))
    assert len(made.planted) == 60


def _move_values(
    chance: random.Random, made: Year, somewhere: Callable[[list[str]], tuple[str, date]], count: int
) -> None:
    for _ in range(count):
        column, day = somewhere(list(made.shares))
        counts = made.shares[column][day]
        commonest = max(counts, key=lambda value: counts[value])
        moved = round(sum(counts.values()) * 0.15)
        counts[commonest] -= moved
        counts["unknown"] = counts.get("unknown", 0) + moved
        made.planted.append(Planted("drift", column, day, "15 points of a column's values are another one"))
