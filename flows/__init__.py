"""The only folder that knows Prefect, the network and the disk."""

from __future__ import annotations

import logging
import time

BEGUN = time.time()
"""When this process began to read the code: what is newer may say something else than what it runs."""

# stamina's own line about a retry names neither what failed nor why; ours do.
logging.getLogger("stamina").setLevel(logging.ERROR)
