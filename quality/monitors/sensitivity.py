"""How far from usual a figure must be before somebody is told: the words that a header may say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Sensitivity:
    """A figure is unusual when it is both: more than so many `deviations` of its usual scatter away, and away
    by more than is worth a message.

    `volume` is a relative change of a number of rows (0.1: a tenth), `share` a change of a rate in points
    (0.01: one point), `distance` one of a distribution (see quality.monitors.drift).
    """

    deviations: float
    volume: float
    share: float
    distance: float


HIGH = Sensitivity(deviations=3.2, volume=0.05, share=0.005, distance=0.05)
NORMAL = Sensitivity(deviations=4.0, volume=0.10, share=0.01, distance=0.10)
LOW = Sensitivity(deviations=6.0, volume=0.25, share=0.03, distance=0.20)

SENSITIVITIES: Mapping[str, Sensitivity] = MappingProxyType({"high": HIGH, "normal": NORMAL, "low": LOW})
