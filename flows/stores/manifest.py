"""The manifest of a lake table: which files are its content, one JSON line for each commit.

`<lake>/<layer>/<table>/_manifest.jsonl` is written after the ledger has committed, and repaired from it. It
holds all that the ledger holds, so an empty warehouse's ledger can be filled from the lake alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import orjson

from flows.errors import FlowsError
from flows.failpoints import failpoint
from flows.stores.durable import fsync_folder, written_whole

MANIFEST = "_manifest.jsonl"

_HEAD = b'{"checksum":"'
_BODY = b'","entry":'
_BODY_BEGINS = len(_HEAD) + 16 + len(_BODY)

_TAIL_BYTES = 1 << 16

Kind = Literal["land", "build", "publish", "compact"]


class ManifestDamaged(FlowsError):
    """A line of a manifest is not what was written there."""


@dataclass(frozen=True)
class LakeFile:
    """One whole Parquet file. `path` is relative to the lake's root; `min`/`max` are of the partition
    column.

    `gone` are the positions (from 0, ascending) of rows that no longer count; `rows` are those that do. Read
    such a file through the lake (`Lake.read`, `lake.sql`), which leaves them out.
    """

    table: str
    layer: str
    partition: str
    path: str
    rows: int
    bytes: int
    sha256: str
    min: str | None = None
    max: str | None = None
    gone: tuple[int, ...] = ()

    def without(self, positions: Iterable[int]) -> Self:
        """The same file with the rows at these positions no longer counting."""
        gone = {*self.gone, *positions}
        return replace(self, gone=tuple(sorted(gone)), rows=self.rows + len(self.gone) - len(gone))

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON values; `gone` only where something is."""
        value = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "gone"}
        return {**value, "gone": list(self.gone)} if self.gone else value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The file a JSON object describes; unknown fields are left out."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**{**known, "gone": tuple(known.get("gone", ()))})


@dataclass(frozen=True)
class Commit:
    """One entry of the ledger and one line of a manifest.

    `kind`: `land` (a raw batch; `table` is the raw table), `build` (a partition of a table that lives in the
    lake alone), `publish` (a partition that PostgreSQL serves too), `compact` (the same rows in other files,
    of raw past its retention in none). `add` are the files that came, `remove` the paths of those they
    replace. A file that is there already is named in `add` again when rows of it no longer count. `windows`
    says how many rows touch which window. `positions`, `based_on` and `control` are the caller's, as JSON.
    """

    token: str
    kind: Kind
    layer: str
    table: str
    partition: str = ""
    run_id: str = ""
    add: tuple[LakeFile, ...] = ()
    remove: tuple[str, ...] = ()
    positions: Mapping[str, Any] = field(default_factory=dict)
    based_on: Mapping[str, Any] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    row_count: int = 0
    landed_at: datetime | None = None

    @property
    def manifest_hash(self) -> str:
        """SHA-256 of what the files of this commit are: ties a ledger row to exact bytes."""
        added = [file.as_json() for file in self.add]
        text = json.dumps([self.token, added, list(self.remove)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The entry as JSON values, times as ISO 8601."""
        return {
            "token": self.token,
            "kind": self.kind,
            "layer": self.layer,
            "table": self.table,
            "partition": self.partition,
            "run_id": self.run_id,
            "add": [file.as_json() for file in self.add],
            "remove": list(self.remove),
            "positions": dict(self.positions),
            "based_on": dict(self.based_on),
            "windows": dict(self.windows),
            "control": dict(self.control),
            "fingerprint": self.fingerprint,
            "row_count": self.row_count,
            "landed_at": self.landed_at.isoformat() if self.landed_at else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The entry a JSON object describes."""
        landed_at = value.get("landed_at")
        return cls(
            token=value["token"],
            kind=value["kind"],
            layer=value["layer"],
            table=value["table"],
            partition=value["partition"],
            run_id=value["run_id"],
            add=tuple(LakeFile.from_json(file) for file in value["add"]),
            remove=tuple(value["remove"]),
            positions=value["positions"],
            based_on=value["based_on"],
            windows=value["windows"],
            control=value["control"],
            fingerprint=value["fingerprint"],
            row_count=value["row_count"],
            landed_at=datetime.fromisoformat(landed_at) if landed_at else None,
        )


def append(path: Path, commits: Iterable[Commit]) -> int:
    """Append the entries whose token is not there yet; returns how many were. One writer at a time (flock).

    A torn last line (a writer died in it) is overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with _locked(path) as descriptor:
        content = _content(descriptor)
        whole = content[: content.rfind(b"\n") + 1]
        lines = [_line(commit) for commit in commits if not _holds(path, whole, commit.token)]
        if not lines:
            return 0
        os.ftruncate(descriptor, len(whole))
        _write_all(descriptor, len(whole), b"".join(lines))
        failpoint("lake.manifest_written")
        os.fsync(descriptor)
    if is_new:
        fsync_folder(path.parent)
    failpoint("lake.manifest_appended")
    return len(lines)


def read(path: Path) -> list[Commit]:
    """Every whole entry in the order of their commits; none where there is no manifest.

    Raises ManifestDamaged for a line whose checksum does not fit.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return list(_entries(path, content[: content.rfind(b"\n") + 1]))


def last(path: Path) -> Commit | None:
    """The newest whole entry, of which alone the line is taken apart; None where there is none.

    Raises ManifestDamaged when its checksum does not fit.
    """
    whole, begin = b"", -1
    try:
        with path.open("rb") as handle:
            begin = size = handle.seek(0, os.SEEK_END)
            # The line before the last one has to end within what was read.
            while begin > 0 and whole.count(b"\n") < 2:
                begin = max(0, begin - max(_TAIL_BYTES, size - begin))
                handle.seek(begin)
                tail = handle.read(size - begin)
                whole = tail[: tail.rfind(b"\n") + 1]
    except FileNotFoundError:
        return None
    lines = whole.splitlines(keepends=True)
    return next(_entries(path, lines[-1])) if lines else None


def names(path: Path, token: str) -> bool:
    """Whether an entry has this token; False where there is no manifest."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return _holds(path, content[: content.rfind(b"\n") + 1], token)


def rewrite(path: Path, changed: Mapping[str, Commit], dropped: Collection[str]) -> None:
    """Write the manifest anew, whole or not at all: entries by their tokens `changed` to others in the same
    place, or `dropped`. Every other line stays as it is. One writer at a time, as for `append`.

    Raises ManifestDamaged for a line whose checksum does not fit; the manifest stays as it was.
    """
    with _locked(path) as descriptor:
        content = _content(descriptor)
        whole = content[: content.rfind(b"\n") + 1]
        lines = [
            _line(changed[entry.token]) if entry.token in changed else line
            for line, entry in zip(whole.splitlines(keepends=True), _entries(path, whole), strict=True)
            if entry.token not in dropped
        ]
        with written_whole(path) as handle:
            handle.writelines(lines)
            failpoint("fold.manifest_rewriting")


def changes(
    before: Sequence[LakeFile], after: Sequence[LakeFile]
) -> tuple[tuple[LakeFile, ...], tuple[str, ...]]:
    """What a commit adds and removes, that makes one content of a partition the other."""
    paths = {file.path for file in after}
    added = tuple(file for file in after if file not in before)
    return added, tuple(file.path for file in before if file.path not in paths)


def fold(commits: Iterable[Commit]) -> list[LakeFile]:
    """The files that are the table's content after these commits, in the order they came."""
    files: dict[str, LakeFile] = {}
    for commit in commits:
        for path in commit.remove:
            files.pop(path, None)
        files.update({file.path: file for file in commit.add})
    return list(files.values())


def _line(commit: Commit) -> bytes:
    body = json.dumps(commit.as_json(), ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode()
    return b"%s%s%s%s}\n" % (_HEAD, _checksum(body), _BODY, body)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()


def _holds(path: Path, content: bytes, token: str) -> bool:
    """Whether an entry has this token. Only lines that name it are taken apart: an append should not cost
    more the longer the history is."""
    name = json.dumps(token).encode()
    found = content.find(name)
    while found >= 0:
        begin, end = content.rfind(b"\n", 0, found) + 1, content.index(b"\n", found)
        number = content.count(b"\n", 0, begin) + 1
        if any(entry.token == token for entry in _entries(path, content[begin:end], number)):
            return True
        found = content.find(name, end)
    return False


def _entries(path: Path, content: bytes, first: int = 1) -> Iterator[Commit]:
    for number, line in enumerate(content.splitlines(), start=first):
        try:
            checksum, body = line[len(_HEAD) : _BODY_BEGINS - len(_BODY)], line[_BODY_BEGINS:-1]
            if line != b"%s%s%s%s}" % (_HEAD, checksum, _BODY, body) or _checksum(body) != checksum:
                raise ValueError("checksum")
            yield Commit.from_json(orjson.loads(body))
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestDamaged(
                f"Line {number} of {path} is damaged, so which files are the table's content is not certain; "
                "nothing was read. Move this file away and run again: it is written anew from the ledger."
            ) from error


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    parts: list[bytes] = []
    offset = 0
    while offset < size:
        part = os.pread(descriptor, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _write_all(descriptor: int, offset: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Who waited for the lock while the manifest was written anew has one that nobody reads.
            if _is_at(path, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
