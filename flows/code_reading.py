"""What only the code decides and takes seconds to read, kept for the next process of the same code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import quality
import transforms
import warehouse_ddl
from flows import settings

CACHE = Path(".cache")
"""Where it is kept, if there is such a folder."""
_CODE = (transforms, quality, warehouse_ddl)
_READERS = ("sqlglot", "polars")
T = TypeVar("T")


def kept(name: str, read: Callable[[], T]) -> T:
    """What `read` gives, a JSON value: as an earlier process has read it, while every model, rule and view
    says what it said then.
    """
    path = CACHE / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["fingerprint"] == _fingerprint():
            found: T = stored["value"]
            return found
    made = read()
    # Without the folder, or the right to write there, it is read again next time.
    with contextlib.suppress(OSError):
        # A process that outlives its code would tell the next ones what that said.
        if all(code.stat().st_ctime <= settings.BEGUN for _, code in _code()):
            temporary = path.with_name(f".{name}.{os.getpid()}")
            stored = {"fingerprint": _fingerprint(), "value": made}
            temporary.write_text(json.dumps(stored), encoding="utf-8")
            temporary.replace(path)
    return made


@cache
def _fingerprint() -> str:
    digest = hashlib.sha256("".join(version(name) for name in _READERS).encode())
    for name, path in _code():
        digest.update(f"\0{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _code() -> Iterator[tuple[str, Path]]:
    """Every file of it, with its name."""
    for package in _CODE:
        folder = Path(package.__file__ or "").parent
        for path in sorted(path for pattern in ("*.sql", "*.py") for path in folder.rglob(pattern)):
            yield f"{package.__name__}/{path.relative_to(folder)}", path
