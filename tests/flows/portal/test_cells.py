"""How a value looks in a page, whatever its kind, and that it is still that value."""

from __future__ import annotations

from typing import Any

import pytest

from flows.portal.cells import fig, pill, prose, shown
from flows.portal.reading import Result


@pytest.mark.parametrize(
    ("value", "kind", "seen"),
    [
        (1234567, "count", "1,234,567"),
        ("1234.50", "money", "1,234.50"),
        ("0.9987", "share", "99.9 %"),
        ("0.99996", "share", "99.9 %"),
        ("1", "share", "100.0 %"),
        (14.4, "number", "14.4"),
        (33.33333333333331, "number", "33.33"),
        (0.02332478091366497, "number", "0.023"),
        (1_234_567.0, "number", "1,234,567"),
        (0, "number", "0"),
        (0, "seconds", "0 s"),
        (2.5, "seconds", "2.5 s"),
        (61.4, "seconds", "1 min 1 s"),
        (3_600, "seconds", "1 h"),
        (11_100, "seconds", "3 h 5 min"),
        (187_200, "seconds", "2 d 4 h"),
        (999, "bytes", "999 B"),
        (1_234, "bytes", "1.2 kB"),
        (5_000_000_000, "bytes", "5.0 GB"),
        ("2025-10-20T11:59:00Z", "time", '<time datetime="2025-10-20T11:59:00Z">20 Oct 2025 11:59</time>'),
        ("2025-10-07", "date", '<time datetime="2025-10-07">7 Oct 2025</time>'),
        ("<b>", "text", "&lt;b&gt;"),
    ],
)
def test_a_value_is_shown_as_people_write_it(value: Any, kind: str, seen: str) -> None:
    assert str(shown(value, kind)).replace("\u00a0", " ") == seen


@pytest.mark.parametrize("value", [None, ""])
def test_what_is_not_there_is_told_to_eyes_and_ears(value: str | None) -> None:
    assert shown(value, "count") == '<span class="sr">none</span><span aria-hidden="true">–</span>'


def test_what_is_typed_is_marked_in_words() -> None:
    assert prose("See `python -m flows <x>`.") == "See <code>python -m flows &lt;x&gt;</code>."
    assert prose("a ` alone") == "a ` alone"


def test_a_figure_names_the_cell_that_it_shows() -> None:
    result = Result("state", "select 1", ["runs", "share"], [[7, "0.5"], [8, "0.25"]])
    assert fig(result, "share", "share", row=1) == (
        '<span class="fig" data-q="state" data-c="share" data-r="1">25.0\u00a0%</span>'
    )


def test_what_was_not_measured_is_shown_as_such() -> None:
    assert "Not measured" in pill(None)
    assert 'class="pill unknown"' in pill(None)


@pytest.mark.parametrize(
    ("state", "tone", "word"),
    [
        ("Failed", "critical", "Failed"),
        ("Crashed", "critical", "Crashed"),
        ("TimedOut", "critical", "Timed out"),
        ("Late", "warning", "Not started"),
        ("Cancelled", "info", "Cancelled"),
        ("Paused", "unknown", "Paused"),
    ],
)
def test_a_run_is_shown_as_what_became_of_it(state: str, tone: str, word: str) -> None:
    assert f'class="pill {tone}"' in pill(state)
    assert pill(state).endswith(f"{word}</span>")
