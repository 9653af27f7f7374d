"""The moment of a rebuild, as it is typed: `python -m flows rebuild --as-of TIME|LSN`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.durations import parse_bound
from flows.errors import FlowsError
from flows.extract.debezium_observed import lsn_number

_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


class AsOfError(FlowsError):
    """The moment, the schema or a table of a rebuild can't be what was asked for."""


@dataclass(frozen=True)
class Moment:
    """A point in the past: a time (UTC), or a place in the log of the application's database."""

    text: str
    at: datetime | None = None
    lsn: int | None = None

    @classmethod
    def parse(cls, text: str) -> Moment:
        """From `2025-11-07T10:15` (UTC unless it says otherwise) or `16/B374D848`. Raises AsOfError."""
        if _LSN.fullmatch(text):
            return cls(text, lsn=lsn_number(text))
        try:
            return cls(text, at=parse_bound(text))
        except ValueError:
            raise AsOfError(
                f"'{text}' is no moment; write a time like 2025-11-07T10:15 (UTC) or an LSN like 16/B374D848."
            ) from None

    @property
    def schema(self) -> str:
        """The name of its schema when none is given."""
        stamp = f"{self.at.astimezone(UTC):%Y%m%dT%H%M%S}" if self.at else self.text.replace("/", "_")
        return f"as_of_{stamp}".lower()

    def refuse_future(self, now: datetime) -> None:
        """What will be landed by then is not known. Raises AsOfError."""
        if self.at is not None and self.at > now:
            raise AsOfError(
                f"{self.text} is not over yet: it is {now.astimezone(UTC):%Y-%m-%dT%H:%M:%S} (UTC). Name "
                "a time before that."
            )
