"""What is read of the code is read once, and anew when the code, or what was kept, is another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows import code_reading, lineage, settings
from flows.code_reading import kept
from transforms.lineage_graph import from_data


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(code_reading, "CACHE", tmp_path)
    return tmp_path


def _never() -> list[int]:
    raise AssertionError("it was read again")


def test_what_was_read_is_taken_from_there_by_the_next(cache: Path) -> None:
    assert kept("primes", lambda: [2, 3]) == [2, 3]
    assert kept("primes", _never) == [2, 3]
    assert [path.name for path in cache.iterdir()] == ["primes.json"]


@pytest.mark.parametrize("stored", ["", "{}", "[]", '{"fingerprint": "another", "value": [4]}'])
def test_what_was_kept_of_other_code_or_is_damaged_is_read_again(cache: Path, stored: str) -> None:
    (cache / "primes.json").write_text(stored, encoding="utf-8")
    assert kept("primes", lambda: [2, 3]) == [2, 3]
    assert json.loads((cache / "primes.json").read_text(encoding="utf-8"))["value"] == [2, 3]


def test_another_rule_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "__init__.py").touch()
    package = type("Package", (), {"__file__": str(rules / "__init__.py"), "__name__": "rules"})
    monkeypatch.setattr(code_reading, "_CODE", (package,))
    before = code_reading._fingerprint.__wrapped__()
    (rules / "fct_a__adds_up.sql").write_text("select 1")
    assert code_reading._fingerprint.__wrapped__() != before


def test_a_process_that_outlives_its_code_leaves_nothing_of_it_to_the_next(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = type(
        "Package", (), {"__file__": str(tmp_path / "package" / "__init__.py"), "__name__": "package"}
    )
    monkeypatch.setattr(code_reading, "_CODE", (package,))
    monkeypatch.setattr(code_reading, "_fingerprint", code_reading._fingerprint.__wrapped__)
    model = tmp_path / "package" / "fct_a.sql"
    model.parent.mkdir()
    model.write_text("select 1", encoding="utf-8")
    monkeypatch.setattr(settings, "BEGUN", model.stat().st_ctime - 1)
    assert kept("answer", lambda: [1]) == [1]
    assert not [path for path in cache.iterdir() if path.suffix == ".json"]
    monkeypatch.setattr(settings, "BEGUN", model.stat().st_ctime + 1)
    assert kept("answer", lambda: [2]) == [2]
    assert kept("answer", _never) == [2]


def test_without_a_folder_it_is_read_each_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_reading, "CACHE", cache / "nowhere")
    assert kept("primes", lambda: [2]) == [2]
    assert kept("primes", lambda: [3]) == [3]


def test_the_lineage_is_the_same_from_there() -> None:
    known = lineage.graph.__wrapped__()
    assert lineage.graph.__wrapped__() == known
    assert from_data(known.as_data()) == known
