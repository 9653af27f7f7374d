"""The only folder that knows Prefect, the network and the disk."""

from __future__ import annotations

import sys

# `python -m flows` is being read: nothing has begun, so Ctrl-C just ends it, until its main hears it as ever.
if sys.argv[:1] == ["-m"] and ("-m", "flows") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False):
    import _signal  # type: ignore[import-not-found]  # reading signal takes longer than all before it

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import logging

# stamina's own line about a retry names neither what failed nor why; ours do.
logging.getLogger("stamina").setLevel(logging.ERROR)
