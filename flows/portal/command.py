"""`python -m flows portal`: write the pages, and serve them where that is asked for."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from flows.errors import FlowsError
from flows.portal.site import write
from flows.services import open_services

_PORT = 8321


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows portal [--out DIR] [--serve [--host HOST] [--port PORT]]`."""
    if not arguments.serve and (arguments.host, arguments.port) != (None, None):
        raise FlowsError("--host and --port say where the portal is served: they go with --serve.")
    services = open_services()
    folder = Path(arguments.out).expanduser().absolute() if arguments.out else services.settings.portal_root
    begun = time.perf_counter()
    try:
        written = write(services, folder)
    except OSError as error:
        raise FlowsError(
            f"The portal can't be written in {folder} ({error.strerror}): name another folder with --out or "
            "ANALYTICS_PORTAL."
        ) from None
    seconds = time.perf_counter() - begun
    print(f"{len(written.bytes_of)} pages in {seconds:.1f} s. Open {written.front.as_uri()}")
    if arguments.serve:
        from flows.portal.serving import serve

        port = _PORT if arguments.port is None else arguments.port
        return serve(services, folder, arguments.host or "127.0.0.1", port)
    print("The rows behind the points of a chart are shown by: python -m flows portal --serve")
    return 0
