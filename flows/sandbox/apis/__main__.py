"""`python -m flows.sandbox.apis --folder DIR --port P`: serve until SIGTERM or SIGINT, on loopback only."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn

from flows.sandbox.apis.server import application
from flows.sandbox.apis.store import Store


def main() -> None:
    """Serve the objects in FOLDER/apis.sqlite."""
    parser = argparse.ArgumentParser(prog="python -m flows.sandbox.apis", description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where apis.sqlite is or will be")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    arguments = parser.parse_args()
    store = Store(arguments.folder)
    try:
        uvicorn.run(
            application(store),
            host="127.0.0.1",
            port=arguments.port,
            log_level="error",
            access_log=False,
            lifespan="off",
            # The fault switch reaches for the connection below HTTP: nothing may wrap `send`.
            proxy_headers=False,
            http="h11",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    finally:
        store.close()


if __name__ == "__main__":
    main()
