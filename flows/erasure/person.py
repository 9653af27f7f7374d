"""A person who is to be forgotten, and how texts that name them are told from others. Pure."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from urllib.parse import unquote

_NOBODY = "@erased.invalid"
"""What an alias ends with: it is nobody's address, also where an earlier try has put it."""
AT = "@|%40"
"""What stands in every address, as a regular expression: so, or as it is written within a URL."""
_AT = re.compile(AT)
LONGEST = 512
"""Characters that an address has at most, however it is written."""
_NEVER = re.compile(r"[\s\"<>(),:;@\[\]]")
"""What stands in no address, and so before one."""
_BESIDE = re.compile(r"[^\w.+%-]")
"""What may stand before an address, or within one: both are tried."""
_CODES = r"(?:[01][0-9a-f]|2[0-46-9acf]|3[a-f]|40|5[b-e]|60|7[b-f])"
"""The codes of the same, as far as it is ASCII."""
_WRITTEN_BESIDE = (r"\\[bfnrt]", rf"\\u00{_CODES}", rf"%{_CODES}")
"""The same as JSON writes it (a new line, Go's `\\u003c`) and a URL within another: what its last character
is says nothing.
"""
_ESCAPED_BESIDE = re.compile("|".join(_WRITTEN_BESIDE), re.IGNORECASE)
_BEGINS = "|".join((r"(?<![\w.+%-])", *(f"(?<={one})" for one in _WRITTEN_BESIDE)))
_AFTER_BACKSLASH = '"\\/'
"""What JSON writes behind a backslash, JSON within JSON behind several."""
_ESCAPED = r"\\+u[0-9a-fA-F]{4}"
_DOMAIN = re.compile(r"(?:[\w.-]|\\+u(?!00[0-7])[0-9a-fA-F]{4}){1,255}")


@dataclass(frozen=True)
class Person:
    """An application's user by id. Where an address has to stand (a message has a recipient), `alias` takes
    the place of theirs.

    `emails` are known while they are being erased; afterwards only their hashes are. A hash is by `salt`, or
    says its own: `salt:hash`, which another list had of them.
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
        hashes = self.email_hashes | {_hash(self.salt, email) for email in known}
        return replace(self, emails=tuple(known), email_hashes=frozenset(hashes))

    def united(self, other: Person) -> Person:
        """The same, known by the addresses too that `other`, another list's entry of them, has hashes of."""
        theirs = {name if ":" in name else f"{other.salt}:{name}" for name in other.email_hashes}
        own = {name.removeprefix(f"{self.salt}:") for name in theirs}
        return replace(self, email_hashes=self.email_hashes | own)

    def has(self, text: str) -> bool:
        """Whether a text is an address of theirs."""
        return "@" in text and not self.email_hashes.isdisjoint(self._hashes(text.strip().lower()))

    @cached_property
    def is_known(self) -> bool:
        """Whether all their addresses are known, and not the hashes alone."""
        return self.email_hashes <= {name for email in self.emails for name in self._hashes(email)}

    def without(self, text: str) -> str:
        """A text with `alias` wherever an address of theirs stands that is known, in any of its forms."""
        return self._pattern.sub(self.alias, text) if self._pattern is not None else text

    def is_named_in(self, text: str) -> bool:
        """Whether a text holds an address of theirs; one that is not known any more, by its hash."""
        if self._pattern is not None and self._pattern.search(text) is not None:
            return True
        return not self.is_known and any(self.has(found) for _, _, found in addresses(text))

    @cached_property
    def rough_pattern(self) -> str:
        """A regular expression (RE2) that every text matches in which they are named, and few others."""
        return f"(?i){self.spelled()}" if self.emails else ""

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        if not self.emails:
            return None
        # Not a part of a longer address: xada@example.com and ada@example.com.au are other people.
        return re.compile(rf"(?i)(?:{_BEGINS})(?:{self.spelled()})(?![\w-]|\.\w)")

    @cached_property
    def pieces(self) -> list[str]:
        """What stands, in lower case, in every text in which they are named: of each address the longest part
        that nobody escapes, and its hash.
        """
        plain = [max(re.findall("[a-z0-9]+", email), key=len, default="") for email in self.emails]
        return [*plain, *map(_sha256, self.emails)]

    def spelled(self, stored: Callable[[str], str] = str) -> str:
        """A regular expression (Python's, RE2's, PostgreSQL's) of their addresses in every form in which they
        are looked for, in lower case: each character that is no letter or digit as it is, or as a URL or JSON
        writes it, since writers differ in which they escape; and their hashes. `stored`: how a text that is
        searched writes such a character.
        """
        forms = set(map(_sha256, self.emails))
        forms |= {"".join(_spelled(one, stored) for one in email) for email in self.emails}
        return "|".join(sorted(forms, key=len, reverse=True))

    @cached_property
    def _salts(self) -> list[str]:
        """Those of hashes that say their own."""
        return sorted({name.partition(":")[0] for name in self.email_hashes if ":" in name})

    def _hashes(self, email: str) -> Iterator[str]:
        """An address as it stands among the hashes, by each salt that there is."""
        yield _hash(self.salt, email)
        for salt in self._salts:
            yield f"{salt}:{_hash(salt, email)}"


def _spelled(character: str, stored: Callable[[str], str]) -> str:
    if character.isascii() and character.isalnum():
        return character
    forms: list[str] = []
    for one in dict.fromkeys((character, character.upper())):
        units = one.encode("utf-16-be", "surrogatepass")
        in_url = "".join(f"%{byte:02x}" for byte in one.encode("utf-8", "replace"))
        # More backslashes than one: JSON within JSON, or bytes as PostgreSQL shows them.
        in_json = "".join(rf"\\+u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
        as_it_is = re.escape(stored(one))
        forms += (rf"\\*{as_it_is}" if one in _AFTER_BACKSLASH else as_it_is, in_url, in_json)
    return f"(?:{'|'.join(forms)})"


def _hash(salt: str, email: str) -> str:
    return _sha256(f"{salt}:{email}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def addresses(text: str) -> Iterator[tuple[int, int, str]]:
    """(where it begins, where it ends, the address) of all that may be one in a text, also as JSON or a URL
    writes it. Of one @ several, the longest first: `mail=ada@example.com` is an address, and so is what it
    ends with.
    """
    for at in _AT.finditer(text):
        domain = _DOMAIN.match(text, at.end())
        if domain is None:
            continue
        ended = at.end() + len(domain.group().rstrip("."))
        backwards = text[max(0, at.start() - LONGEST // 2) : at.start()][::-1]
        never = _NEVER.search(backwards)
        begun = at.start() - (never.start() if never is not None else len(backwards))
        before = text[begun : at.start()]
        ends = (found.end() for one in (_BESIDE, _ESCAPED_BESIDE) for found in one.finditer(before))
        for start in sorted({0, *ends}):
            if start < len(before):
                yield begun + start, ended, _read(f"{before[start:]}@{text[at.end() : ended]}")


def with_aliases(text: str, alias_of: Callable[[str], str | None]) -> str:
    """A text with another in the place of each address that has an alias."""
    parts, done = [], 0
    for begun, ended, address in addresses(text):
        if begun >= done and (alias := alias_of(address)):
            parts += [text[done:begun], alias]
            done = ended
    return "".join((*parts, text[done:])) if parts else text


def _read(address: str) -> str:
    """An address as it is, of one as JSON or a URL writes it."""
    if "\\u" in address:
        address = re.sub(_ESCAPED, lambda found: chr(int(found.group()[-4:], 16)), address)
    return unquote(address) if "%" in address else address
