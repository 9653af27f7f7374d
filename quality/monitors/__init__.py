"""What is unusual: figures against their own past, by robust statistics. Pure: numbers in, judgements out.

Nothing here knows where a figure comes from. Every function that judges takes what was measured before and a
`Sensitivity`, and gives None where the past is too short to say what is usual.
"""

from __future__ import annotations

from quality.monitors.drift import Numbers, Shares, drift
from quality.monitors.sensitivity import HIGH, LOW, NORMAL, SENSITIVITIES, Sensitivity
from quality.monitors.shares import Share, judge_share
from quality.monitors.usual import Judged, Usual, usual
from quality.monitors.volume import Volumes, judge_change

__all__ = [
    "HIGH",
    "LOW",
    "NORMAL",
    "SENSITIVITIES",
    "Judged",
    "Numbers",
    "Sensitivity",
    "Share",
    "Shares",
    "Usual",
    "Volumes",
    "drift",
    "judge_change",
    "judge_share",
    "usual",
]
