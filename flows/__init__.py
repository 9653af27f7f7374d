"""The only folder that knows Prefect, the network and the disk."""

from __future__ import annotations

import logging

# stamina's own line about a retry names neither what failed nor why; ours do.
logging.getLogger("stamina").setLevel(logging.ERROR)
