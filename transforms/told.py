"""What is told of an error in a model's code: never a value, which may be a person's."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

_OF_NAMES = (AttributeError, ImportError, NameError, SyntaxError, TypeError)
"""What Python raises about the code itself: its words quote names and no values."""

OF_PYTHON = (*_OF_NAMES, ArithmeticError, AssertionError, LookupError, RuntimeError, SystemExit, ValueError)
"""What it raises in code that is wrong, or was not made for its data. No other try ends otherwise; an exit
would end the whole run, and say nothing.
"""


def without_values(said: str) -> str:
    """One line that a database said of a value, without the value."""
    said = said.replace("can't be cast", "cannot be cast")
    said = re.sub(r"(with value )[^'\"]\S*|(out of range: ).*| \([^()]*\)(!)$", r"\1\2…\3", said)
    # A quote inside a value could end the quotation early: all from the first quote to the last one goes.
    return re.sub(r"""['"].*['"]|['"].*""", "'…'", said)


def said_by_polars(said: str) -> str:
    """The first line of an error of Polars up to where it could begin to quote rows; columns stay named."""
    line = re.sub(r"""^([^'"]*\bin column )'(\w+)'""", r"\1\2", said.splitlines()[0])
    return re.sub(r"""['"].*|\bvalues?(\(s\))?: .*""", "…", line)


def said_by_python(error: BaseException) -> str:
    """One line about what a model's Python raised."""
    said = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {said if isinstance(error, _OF_NAMES) else without_values(said)}"


def line_of(path: Path | None, error: BaseException) -> str:
    """`:12` for the line of this file at which an error was raised or passed; '' where it was not there."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f":{lines[-1]}" if lines else ""
