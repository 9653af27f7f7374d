"""The jars are the listed ones; paths survive Java's way of writing settings."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class _Repository(BaseHTTPRequestHandler):
    """A Maven repository of one jar: it hangs up in the middle of it the first time."""

    JAR = b"a jar" * 20_000
    tries = 0

    def do_GET(self) -> None:
        body = hashlib.sha1(self.JAR).hexdigest().encode() if self.path.endswith(".sha1") else self.JAR
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body is self.JAR:
            type(self).tries += 1
        self.wfile.write(body[:1000] if self.tries == 1 else body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the test reads what arrives."""


def test_a_jar_that_breaks_off_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashlib.sha256(_Repository.JAR).hexdigest()
    (tmp_path / "jars.txt").write_text(f"example:part:1.0 {expected}\n")
    monkeypatch.setattr(kafka, "JAR_LIST", tmp_path / "jars.txt")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Repository) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(kafka, "REMOTE", {"here": f"http://127.0.0.1:{server.server_port}"})
        folder = kafka.jars(tmp_path / "cache", lambda message: None)
        server.shutdown()
    assert (folder / "part-1.0.jar").read_bytes() == _Repository.JAR
    assert _Repository.tries == 2


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
