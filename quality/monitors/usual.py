"""What is usual, and how far a figure scatters around it: medians, which a few bad days do not move."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median

LEAST_POINTS = 7
"""Fewer figures than this say nothing of what is usual."""
LEAST_OF_SEASON = 3
"""Fewer figures than this of one season (a Monday, a Monday's nine o'clock) are not believed alone: then all
figures are what is usual."""
_NORMAL = 1.4826
"""Median absolute deviation of a normal distribution → its standard deviation."""
_ORDINARY = 3.0
"""Distances of more standard deviations than this are not ordinary."""
_CUT = 1.0136
"""What a normal distribution's standard deviation loses without them."""


@dataclass(frozen=True)
class Usual:
    """The figure to be expected, and the usual scatter around it (as a standard deviation)."""

    expected: float
    scatter: float


@dataclass(frozen=True)
class Judged:
    """A figure beside what was expected. Between `low` and `high` it is nothing to speak of."""

    value: float
    expected: float
    low: float
    high: float

    @property
    def is_unusual(self) -> bool:
        """Whether it lies outside."""
        return not self.low <= self.value <= self.high

    @property
    def limit(self) -> float:
        """The bound that it is held to: the one it has crossed, else the nearer one."""
        if self.value < self.low:
            return self.low
        return self.high if self.value > self.high or self.nearer_high else self.low

    @property
    def nearer_high(self) -> bool:
        """Whether it is nearer to the upper bound."""
        return self.high - self.value <= self.value - self.low


def scatter(figures: Sequence[float]) -> float:
    """The usual distance from the middle as a standard deviation, whatever a few of the figures are.

    The median absolute deviation says which distances are ordinary; the standard deviation of these needs a
    third of the figures to be as certain.
    """
    count = len(figures)
    if count < 2:
        return 0.0
    middle = median(figures)
    away = [abs(figure - middle) for figure in figures]
    # Of few figures the median deviation is too small on average (Croux and Rousseeuw, 1992).
    rough = _NORMAL * median(away) * count / (count - 0.8)
    ordinary = [each for each in away if each <= _ORDINARY * rough]
    return _CUT * math.sqrt(sum(each**2 for each in ordinary) / max(1, len(ordinary) - 1))


def usual(history: Sequence[tuple[Hashable, float]], season: Hashable) -> Usual | None:
    """What is usual in `season`, given figures with the season of each; None when they are too few.

    The scatter is that of all figures, each around the middle of its own season: a season has few. Of a
    season that was hardly seen, all of the range that figures ever had is usual scatter.
    """
    if len(history) < LEAST_POINTS:
        return None
    by_season: dict[Hashable, list[float]] = {}
    for name, figure in history:
        by_season.setdefault(name, []).append(figure)
    own = len(by_season.get(season, ()))
    if own < LEAST_OF_SEASON:
        figures = [figure for _, figure in history]
        return Usual(median(figures), (max(figures) - min(figures)) / 2)
    middles = {name: median(figures) for name, figures in by_season.items()}
    around = [figure - middles[name] for name, figure in history if len(by_season[name]) >= LEAST_OF_SEASON]
    # A figure is nearer to a middle that was made of it too; and the middle of a few is itself uncertain.
    return Usual(middles[season], scatter(around) * math.sqrt((1 + math.pi / 2 / own) / (1 - 1 / own)))
