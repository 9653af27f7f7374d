"""`python -m flows stream`: events, and beside them the application's changes, as they come."""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from flows import change_topics
from flows.durations import length_of_time
from flows.errors import FlowsError
from flows.hung import stop_when_told, within
from flows.metrics.endpoint import of_stream
from flows.metrics.stream import StreamNumbers
from flows.openlineage.streaming import told
from flows.progress import Progress
from flows.services import Services
from flows.streaming.following import ChangesTally, follow
from flows.streaming.route import Route, route
from flows.streaming.taking_in import take_in
from flows.streaming.tally import Tally, note_end
from transforms import registry
from transforms.entities import Kafka, SourceEntity

END_SECONDS = 20.0
"""How long a stream that is told to end may take; who waits for it kills it after 25 to 30."""


def live(
    services: Services,
    way: Route,
    changed: Sequence[SourceEntity],
    progress: Progress,
    *,
    stop: threading.Event,
    until_idle: bool = False,
    seconds: float | None = None,
    without: Collection[str] = (),
) -> tuple[Tally, ChangesTally | None]:
    """`take_in`, and beside it `follow` where tables are given, `without` these and what needs them; who asks
    for the numbers of both is answered meanwhile, if a port is set. What one of them can't go on with ends
    the other.
    """
    events, changes, settings = Tally(), ChangesTally(), services.settings
    numbers = StreamNumbers({"events": events, "changes": changes})
    with (
        told(services, way, changed, progress),
        of_stream(numbers, settings.metrics_host, settings.metrics_port, progress.say),
        ThreadPoolExecutor(max_workers=1) as beside,
    ):
        following: Future[ChangesTally] | None = None
        if changed:
            following = beside.submit(
                follow,
                services,
                changed,
                stop=stop,
                until_idle=until_idle,
                seconds=seconds,
                progress=progress,
                tally=changes,
                without=without,
            )
            # A supervisor starts both again.
            following.add_done_callback(lambda done: stop.set() if done.exception() else None)
        try:
            take_in(
                services,
                way,
                stop=stop,
                until_idle=until_idle,
                seconds=seconds,
                progress=progress,
                tally=events,
            )
        except BaseException:
            stop.set()
            raise
        followed = following.result() if following is not None else None
    note_end(services.warehouse)
    return events, followed


def _leave(services: Services, progress: Progress) -> None:
    """End this process, whatever its threads wait for: a lock that a batch or a replay holds, a server that
    does not answer. What it was at is undone, as after a kill, and the next stream's.
    """
    progress.say("stream", f"not done after {END_SECONDS:.0f} s: what it waited for is left to the next one")
    with suppress(TimeoutError):
        within(END_SECONDS / 5, lambda: note_end(services.warehouse))
    os._exit(0)


def command(arguments: argparse.Namespace) -> int:
    """`python -m flows stream`: until SIGTERM or Ctrl-C, which end it cleanly."""
    from flows import prepare
    from flows.commands import ensure_services
    from flows.services import open_services

    longest = length_of_time(arguments.seconds) if arguments.seconds else None
    ensure_services()
    services = open_services()
    stop = threading.Event()
    with services.lake, Progress("stream") as progress:
        leaving = threading.Timer(END_SECONDS, _leave, (services, progress))
        leaving.daemon = True
        stop_when_told(stop, leaving)
        left = prepare.warehouse(services, False, progress)
        way = route([entity for entity in registry.entities() if isinstance(entity.read, Kafka)])
        for name, said in left.refused.items():
            if name in {table.name for table in (*way.staging.values(), *way.facts, *way.windows)}:
                raise FlowsError(said)
            progress.say("stream", said)
        # Without Kafka nothing comes by itself: the batch reads the application's log.
        follows = services.settings.cdc_engine == "kafka"
        changed = change_topics.of(registry.entities()) if follows else []
        begun = time.monotonic()
        taken, followed = live(
            services,
            way,
            changed,
            progress,
            stop=stop,
            until_idle=arguments.until_idle,
            seconds=longest,
            without=left.tables,
        )
        seconds = time.monotonic() - begun
        progress.say("stream", taken.line(taken.messages / seconds))
        if followed is not None:
            progress.say("changes", followed.line(followed.messages / seconds, 0))
        leaving.cancel()
    return 0
