"""A person who is to be forgotten, and how texts that name them are told from others. Pure."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

_NOBODY = "@erased.invalid"
"""What an alias ends with: it is nobody's address, also where an earlier try has put it."""


@dataclass(frozen=True)
class Person:
    """An application's user by id. Where an address has to stand (a message has a recipient), `alias` takes
    the place of theirs.

    `emails` are known while they are being erased; afterwards only their hashes are.
    """

    user_id: int
    alias: str
    salt: str
    email_hashes: frozenset[str] = frozenset()
    emails: tuple[str, ...] = ()

    @classmethod
    def new(cls, user_id: int) -> Person:
        """Somebody of whom nothing but the id is known yet."""
        return cls(user_id, f"erased-{secrets.token_hex(8)}{_NOBODY}", secrets.token_hex(16))

    def with_emails(self, emails: Iterable[str]) -> Person:
        """The same, known by further addresses."""
        given = {email.strip().lower() for email in (*self.emails, *emails) if "@" in email}
        known = sorted(email for email in given if not email.endswith(_NOBODY))
        hashes = self.email_hashes | {self._hash(email) for email in known}
        return replace(self, emails=tuple(known), email_hashes=frozenset(hashes))

    def has(self, text: str) -> bool:
        """Whether a text is an address of theirs."""
        return "@" in text and self._hash(text.strip().lower()) in self.email_hashes

    def without(self, text: str) -> str:
        """A text with `alias` wherever an address of theirs stands, also as JSON or as its SHA-256."""
        return self._pattern.sub(self.alias, text) if self._pattern is not None else text

    def is_named_in(self, text: str) -> bool:
        """Whether a text holds an address of theirs."""
        return self._pattern is not None and self._pattern.search(text) is not None

    @cached_property
    def rough_pattern(self) -> str:
        """A regular expression (RE2) that every text matches in which they are named, and few others."""
        return "(?i)" + "|".join(map(re.escape, self.forms)) if self.emails else ""

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        if not self.emails:
            return None
        forms = "|".join(map(re.escape, self.forms))
        # Not a part of a longer address: xada@example.com and ada@example.com.au are other people.
        return re.compile(rf"(?i)(?<![\w.+%-])(?:{forms})(?![\w-]|\.\w)")

    @cached_property
    def forms(self) -> list[str]:
        """Their addresses in every form in which they are looked for, the longest first."""
        forms: set[str] = set()
        for email in self.emails:
            forms |= {email, json.dumps(email)[1:-1], hashlib.sha256(email.encode()).hexdigest()}
        return sorted(forms, key=len, reverse=True)

    def _hash(self, email: str) -> str:
        return hashlib.sha256(f"{self.salt}:{email}".encode()).hexdigest()
