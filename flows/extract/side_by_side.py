"""Several streams of rows read at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa


def side_by_side(streams: Sequence[Callable[[], Iterator[pa.RecordBatch]]]) -> Iterator[pa.RecordBatch]:
    """Several streams, a thread each; at most two batches a stream wait. The first error ends all of them."""
    waiting: queue.Queue[pa.RecordBatch | Exception | None] = queue.Queue(maxsize=2 * len(streams))
    stop = threading.Event()

    def hand_over(item: pa.RecordBatch | Exception | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def work(stream: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        try:
            batches = stream()
            for batch in batches:
                hand_over(batch)
                if stop.is_set():
                    return
            hand_over(None)
        except Exception as error:  # noqa: BLE001 - it is raised again in the thread that reads
            hand_over(error)

    threads = [threading.Thread(target=work, args=(stream,), daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            item = waiting.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
