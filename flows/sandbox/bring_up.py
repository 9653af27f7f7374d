"""Bringing up one part after the other, or beside it: what needs what."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from flows.errors import FlowsError
from flows.sandbox import connect, flow_runs, prefect_server, processes
from flows.sandbox import state as states
from flows.sandbox.parts import Context, controls
from flows.sandbox.state import Part, Running, State

# Another program may take the port first, a killed server's backends may hold its memory for a moment.
ATTEMPTS = 3

# Waiting for longer is said.
_SILENT_SECONDS = 3


def settle(outcome: Future[None], job: Callable[[], None]) -> None:
    """Do the job; who waits for the outcome learns how it ended."""
    try:
        job()
    except BaseException as error:
        outcome.set_exception(error)
        raise
    outcome.set_result(None)


Then = Callable[[State, bool], None]
"""Called with the state, and whether the sandbox is held meanwhile (`state.exclusive`)."""


def go_on(then: Then, awaited: Sequence[Future[None]], context: Context) -> None:
    """Call `then` once what is awaited is there."""
    if all(outcome.exception() is None for outcome in awaited):  # what failed tells it itself
        then(context.state(), True)


def _spawn(part: Part, context: Context, before: Running | None) -> Running:
    """Start the part's process, with the port that it had `before` where that is free."""
    remembered = before.port if before else None
    control = controls(part)
    port = processes.remembered_port(remembered) if control.listens else None
    if remembered and port != remembered:
        context.progress(part, f"port {remembered} is taken by another program: now on {port}")
    running = Running(port, control.start(context, port or 0))
    states.set_part(context.folder, part, running)
    return running


def bring_up(part: Part, context: Context, spawned: Running | None = None) -> None:
    """See to it that the part runs and answers; the state knows its process before it is waited for.

    `spawned`: it was started a moment ago.
    """
    begun = time.monotonic()
    control = controls(part)
    state = context.state()
    running = state.parts.get(part)
    if spawned is None and running and running.process and processes.alive(running.process):
        if _answers(part, running, context):
            return
        context.progress(part, "does not answer: starting it again")
        control.stop(running.process)
    elif spawned is None and running and running.process:
        context.progress(part, "had ended: starting it again")
    for attempt in range(1, ATTEMPTS + 1):
        running, spawned = spawned or _spawn(part, context, running), None
        assert running.process is not None
        try:
            processes.wait_until(
                control.ready(context, running),
                process=running.process,
                seconds=control.seconds,
                part=part,
                log=state.logs / f"{part}.log",
            )
        except processes.EndedError:
            if attempt == ATTEMPTS:
                raise
            context.progress(part, "ended while it was starting: trying again")
            time.sleep(attempt)
        else:
            break
    where = f" on port {running.port}" if running and running.port else ""
    context.progress(part, f"runs{where} ({time.monotonic() - begun:.1f} s)")


def _answers(part: Part, running: Running, context: Context) -> bool:
    """Whether a living part answers, asked for as long as its start may take: another start may be under way,
    and one that is only busy must not be ended under those who use it.
    """
    control = controls(part)
    ready = control.ready(context, running)
    begun, is_told = time.monotonic(), False
    while not ready():
        if processes.cancelled.is_set():
            raise processes.interrupted(part)
        waited = time.monotonic() - begun
        if waited > control.seconds:
            return False
        if waited > _SILENT_SECONDS and not is_told:
            context.progress(
                part, f"does not answer: waiting for it, {control.seconds:.0f} s until it is started again"
            )
            is_told = True
        time.sleep(0.1)
    return True


def bring_up_connect(context: Context, broker: Future[None]) -> None:
    """Bring up Connect. Its worker is started beside the broker and waits for it: both load their classes for
    seconds, each on a core.
    """
    while (address := _spawned_broker(context)) is None and not broker.done():
        time.sleep(0.05)
    running = context.state().parts.get(Part.CONNECT)
    spawned = None
    if address and not (running and processes.alive(running.process)):
        running = spawned = _spawn(Part.CONNECT, context, running)
    if broker.exception() is not None:
        return  # the broker's own chain tells
    state = context.state()
    if running and running.process and not connect.is_beside(state):
        controls(Part.CONNECT).stop(running.process)  # it would wait for the port that the broker lost
        spawned = None
    bring_up(Part.CONNECT, context, spawned)


def _spawned_broker(context: Context) -> str | None:
    """The address of the broker, when its process lives."""
    state = context.state()
    running = state.parts.get(Part.KAFKA)
    return state.kafka_bootstrap if running and processes.alive(running.process) else None


def bring_up_prefect(context: Context) -> None:
    bring_up(Part.PREFECT, context)
    prefect_server.make_pool(context.state())
    state = context.state()
    worker = state.parts.get(Part.PREFECT_WORKER)
    if worker and worker.process and not prefect_server.is_beside(state, worker.process):
        controls(Part.PREFECT_WORKER).stop(worker.process)  # it would ask at the port that the server lost
    if worker is None or not processes.alive(worker.process):
        try:
            flow_runs.end_lost(context.state())
        except FlowsError as error:
            context.progress(Part.PREFECT, str(error))
    bring_up(Part.PREFECT_WORKER, context)
    wanted = prefect_server.digest(context.root)
    if wanted is None or wanted == context.state().deployed:
        return
    begun = time.monotonic()
    try:
        prefect_server.deploy(context.state(), context.root)
    except FlowsError as error:
        # Runs, the lake and the warehouse do not need the deployments; the next start tries again.
        context.progress(Part.PREFECT, f"the deployments are not registered: {error}")
        return
    states.update(context.folder, lambda known: replace(known, deployed=wanted))
    context.progress(Part.PREFECT, f"deployments registered ({time.monotonic() - begun:.1f} s)")
