"""`python -m flows.sandbox`: fetch and make what every start needs, as the last step of an installation."""

from __future__ import annotations

import sys

from flows.errors import FlowsError
from flows.sandbox import prepare
from flows.sandbox.commands import show


def main() -> int:
    """Exit code 0 when nothing is missing any more, 2 with one line that says what is."""
    try:
        prepare(progress=show)
    except FlowsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
