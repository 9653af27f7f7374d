"""The jars are the listed ones; paths survive Java's way of writing settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.sandbox import kafka
from flows.sandbox.lifecycle import CACHE


def test_every_listed_jar_is_there_and_nothing_else() -> None:
    folder = kafka.jars(CACHE, lambda message: None)
    listed = {
        f"{artifact}-{version}.jar"
        for _, artifact, version in (
            line.split()[0].split(":") for line in kafka.JAR_LIST.read_text().splitlines()
        )
    }
    assert {path.name for path in folder.glob("*.jar")} == listed


def test_an_interrupted_fetch_is_not_taken_for_a_complete_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "half.jar").write_bytes(b"half")

    def fetch(lines: list[str], repository: Path, target: Path) -> None:
        repository.mkdir(parents=True)
        (target / "whole.jar").write_bytes(b"whole")

    monkeypatch.setattr(kafka, "_fetch", fetch)
    folder = kafka.jars(tmp_path, lambda message: None)
    assert [path.name for path in sorted(folder.glob("*.jar"))] == ["whole.jar"]
    assert [path.name for path in tmp_path.iterdir()] == ["kafka"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("/plain/folder", "/plain/folder"),
        ("/with space/é", "/with space/\\u00e9"),
        ("back\\slash", "back\\\\slash"),
        ("/日/😀", "/\\u65e5/\\ud83d\\ude00"),
    ],
)
def test_a_setting_is_written_as_java_reads_it(value: str, written: str) -> None:
    assert kafka._escape(value) == written
