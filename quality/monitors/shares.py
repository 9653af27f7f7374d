"""Rates: how many of some rows are null, are copies, are broken. A rate that falls is no trouble."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import date

from quality.monitors.sensitivity import Sensitivity
from quality.monitors.usual import Judged, usual


@dataclass(frozen=True)
class Share:
    """`part` of `whole` rows, on one day."""

    day: date
    part: int
    whole: int

    @property
    def rate(self) -> float:
        """Between 0 and 1; 0 of no rows."""
        return self.part / self.whole if self.whole else 0.0


def judge_share(history: Sequence[Share], share: Share, sensitivity: Sensitivity) -> Judged | None:
    """A rate against those of the days before, by weekday; only one that is higher is unusual.

    None where fewer than seven days with rows came before.
    """
    seasons: list[tuple[Hashable, float]] = [
        (each.day.weekday(), each.rate) for each in history if each.whole and each.day < share.day
    ]
    found = usual(seasons, share.day.weekday())
    if found is None:
        return None
    # By chance alone: of n rows, and as if one more of them and one fewer had been counted.
    likely = (found.expected * share.whole + 1) / (share.whole + 2)
    by_chance = math.sqrt(likely * (1 - likely) / max(share.whole, 1))
    scatter = max(found.scatter, by_chance, sensitivity.share / 10)
    high = found.expected + max(sensitivity.share, sensitivity.deviations * scatter)
    return Judged(share.rate, found.expected, 0.0, min(1.0, high))
