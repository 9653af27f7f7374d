"""Files that only the holder of a key can read, in age's format (age-encryption.org), so that anybody's `age`
opens them; written and read as a stream.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.errors import FlowsError

SUFFIX = ".age"


class SealError(FlowsError):
    """The key of the backups can't be used, or does not open a file."""


class Seal:
    """The key in ANALYTICS_BACKUP_KEY: `age1…` closes files, `AGE-SECRET-KEY-1…` opens them too."""

    def __init__(self, key: str) -> None:
        import pyrage

        self._identity = None
        try:
            if key.startswith("AGE-SECRET-KEY-"):
                self._identity = pyrage.x25519.Identity.from_str(key)
                self._recipient = self._identity.to_public()
            else:
                self._recipient = pyrage.x25519.Recipient.from_str(key)
        except (pyrage.IdentityError, pyrage.RecipientError):
            raise SealError(
                "ANALYTICS_BACKUP_KEY is no key of age: `age-keygen` makes one. Give `age1…` to a machine "
                "that only backs up, `AGE-SECRET-KEY-1…` to one that restores."
            ) from None

    @property
    def recipient(self) -> str:
        """The public half, which may be shown."""
        return str(self._recipient)

    @property
    def opens(self) -> bool:
        """Whether this key opens files, or only closes them."""
        return self._identity is not None

    def close(self, source: Path, target: Path) -> tuple[int, str]:
        """Write the sealed form of a file; its size in bytes and its SHA-256. Raises OSError where that
        can't be written.
        """
        import pyrage

        with source.open("rb") as reader, target.open("wb") as writer:
            hashed = _Hashed(writer.write)
            try:
                pyrage.encrypt_io(reader, hashed, [self._recipient])
            except pyrage.EncryptError:
                if hashed.refused is None:
                    raise
                raise hashed.refused from None
        return hashed.size, hashed.digest

    def open(self, source: Path, target: Path | None) -> tuple[int, str]:
        """Write what a sealed file holds (None: nowhere); its size in bytes and its SHA-256.

        Raises SealError when this is not the key, or the file is damaged.
        """
        import pyrage

        if self._identity is None:
            raise SealError(
                f"{source} is sealed, and ANALYTICS_BACKUP_KEY is only the half that closes: set it to the "
                "AGE-SECRET-KEY-1… that belongs to it."
            )
        sink = io.BytesIO() if target is None else target.open("wb")
        with source.open("rb") as reader, sink:
            hashed = _Hashed((lambda _: None) if target is None else sink.write)
            try:
                pyrage.decrypt_io(reader, hashed, [self._identity])
            except pyrage.DecryptError:
                raise SealError(
                    f"The key in ANALYTICS_BACKUP_KEY does not open {source}: it was sealed for another one."
                ) from None
            except OSError as error:
                if error.errno is not None:
                    raise
                raise SealError(
                    f"{source} is damaged: its seal is broken. Take another backup "
                    "(`python -m flows backup list`)."
                ) from None
        return hashed.size, hashed.digest


class _Hashed:
    """A writer that knows the size and the SHA-256 of what went through it."""

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write
        self._sum = hashlib.sha256()
        self.size = 0
        self.refused: OSError | None = None
        """Why a part could not be written: pyrage tells it as its own error, in words alone."""

    def write(self, part: bytes) -> int:
        self._sum.update(part)
        try:
            self._write(part)
        except OSError as error:
            self.refused = error
            raise
        self.size += len(part)
        return len(part)

    def flush(self) -> None:
        """Nothing waits here."""

    @property
    def digest(self) -> str:
        return self._sum.hexdigest()


def seal_of(key: str | None) -> Seal | None:
    """The seal of a setting; None where none is set. Raises SealError for what is no key."""
    return Seal(key) if key else None
