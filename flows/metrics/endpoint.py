"""`/metrics` for Prometheus: of the stream while it lives, of the warehouse by `python -m flows metrics`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from flows.errors import FlowsError

AGAIN_SECONDS = 5.0
"""How soon a port that was taken is tried again: Prometheus misses one scrape, not a shift."""


class PortTaken(FlowsError):
    """Nobody can be answered at that address."""


@contextmanager
def serving(collector: Any, host: str, port: int) -> Iterator[int]:
    """Answer at http://host:port/metrics while the block lasts; gives the port (0 asks for any). Raises
    PortTaken.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    # Nobody is asked when it is registered: what is away then may be there when Prometheus comes.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise PortTaken(
            f"Metrics can't be served at {host}:{port}: {error.strerror}. Choose another port."
        ) from None
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def of_stream(
    collector: Any, host: str, port: int | None, say: Callable[[str, str], object]
) -> Iterator[None]:
    """The same where a port is set. One that is taken is told; the stream goes on without, and has it as soon
    as it is free: a shift begins while the one before it still answers there.
    """
    if port is None:
        yield
        return
    tried, over = threading.Event(), threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                with serving(collector, host, port) as at:
                    say("metrics", f"http://{host}:{at}/metrics")
                    tried.set()
                    over.wait()
            except PortTaken as error:
                if not tried.is_set():
                    again = f"It is tried again every {AGAIN_SECONDS:.0f} s, until whoever has it ends."
                    say("metrics", f"{error} {again}")
                tried.set()
                over.wait(AGAIN_SECONDS)

    with ThreadPoolExecutor(max_workers=1) as beside:
        answering = beside.submit(serve)
        answering.add_done_callback(lambda _: tried.set())
        tried.wait()
        try:
            yield
        finally:
            over.set()
        answering.result()


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows metrics [--serve PORT]`: what the warehouse knows, once or whenever it is asked."""
    from prometheus_client import CollectorRegistry, generate_latest

    from flows.metrics.warehouse import WarehouseNumbers
    from flows.services import open_services

    services = open_services()
    collector = WarehouseNumbers(services)
    if arguments.serve is None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        print(generate_latest(registry).decode(), end="")
        return 0
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with serving(collector, services.settings.metrics_host, arguments.serve) as port:
        print(f"http://{services.settings.metrics_host}:{port}/metrics", file=sys.stderr, flush=True)
        stop.wait()
    return 0
