"""What a stream tells while it lives: one run for each kind of stream in a process, so two in a shift."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from flows.openlineage.places import of_source
from flows.openlineage.report import described, described_table, how_ended, without_secrets
from flows.progress import Progress
from flows.streaming.route import Route
from flows.streaming.shown_live import shown_live
from transforms import registry
from transforms.contract import Table
from transforms.entities import SourceEntity

if TYPE_CHECKING:
    from flows.openlineage.events import State, Work
    from flows.services import Services

RUNNING_EVERY_SECONDS = 600.0
"""How often a stream tells that it goes on: of its micro-batches, many a second, none is told."""


@contextmanager
def told(
    services: Services,
    way: Route,
    changed: Sequence[SourceEntity],
    progress: Progress,
    every: float = RUNNING_EVERY_SECONDS,
) -> Iterator[None]:
    """Tell that the streams of topics and, where tables are given, of changes begin, go on and have ended, or
    failed. Of one that was killed the end is never told.
    """
    receiver = services.openlineage
    if receiver is None:
        yield
        return
    from flows.openlineage.events import event

    @cache
    def works() -> list[Work]:
        """Made up with the first event, so that the receiver catches what goes wrong there too."""
        topics = list(way.entities.values())
        found = [_work(services, "stream.events", topics, [*way.facts, *way.windows])]
        if changed:
            shown = [table for table in shown_live(changed) if table.is_published]
            found.append(_work(services, "stream.changes", changed, shown))
        return found

    def made(number: int, state: State, error: str) -> Mapping[str, Any]:
        return event(works()[number], state, services.settings.now(), error=error)

    def tell(state: State, error: str = "") -> None:
        for number in range(2 if changed else 1):
            receiver.send(partial(made, number, state, error))
        if trouble := receiver.told():
            progress.say("openlineage", trouble)

    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.wait(every):
            tell("RUNNING")

    tell("START")
    going_on = threading.Thread(target=go_on, name="openlineage", daemon=True)
    going_on.start()
    try:
        yield
    except BaseException as error:
        is_over.set()
        going_on.join()
        tell(how_ended(error), without_secrets(services, str(error) or type(error).__name__))
        raise
    is_over.set()
    going_on.join()
    tell("COMPLETE")


def _work(services: Services, job: str, entities: Sequence[SourceEntity], shown: Sequence[Table]) -> Work:
    """What comes from these sources is kept in raw, and shown in these tables."""
    from flows.openlineage.events import Work

    return Work(
        job,
        inputs=[described(entity.place, of_source(entity, services.settings)) for entity in entities],
        outputs=[
            described_table(services, table)
            for table in (*(registry.table(entity.table) for entity in entities), *shown)
        ],
        owner=entities[0].owner,
        is_streaming=True,
    )
