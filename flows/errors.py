"""The errors that people meet."""

from __future__ import annotations


class FlowsError(Exception):
    """A problem that the person at the keyboard can act on.

    The message is complete and human: what happened, where, what to do next. The command line prints it
    in one line, without a traceback, and exits with `exit_code`. Subclass it for errors that callers
    have to tell apart; anything that is not a `FlowsError` is a defect and shows its traceback.
    """

    exit_code = 2
