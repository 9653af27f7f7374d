"""The stream in shifts: a deployment that keeps it alive, and hands over to the next shift."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.batch import run_name
from flows.errors import FlowsError
from flows.flow_names import STREAM
from flows.hung import HOUR
from flows.settings import load

_STREAM = (sys.executable, "-m", "flows", "stream", "--for")
_RESTART_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 4.0
_QUICK_DEATHS = 5
_QUICK_SECONDS = 30.0
_OVERTIME = 120.0
# Prefect kills what has not ended 30 s after a cancellation: the process has to be gone before.
_END_SECONDS = 25.0


class StreamDied(FlowsError):
    """To the end of its shift the stream ended again and again as soon as it was started; its own message
    says why.
    """

    exit_code = 1


# It tries again by itself, within seconds. Its time is `minutes`; this is for one that does not keep to it.
@flow(name=STREAM, flow_run_name=run_name, timeout_seconds=25 * HOUR, retries=0, result_serializer="json")
def event_stream(minutes: Annotated[float, Field(gt=0, le=24 * 60)] = 61) -> dict[str, int]:
    """Take the event topics in. A shift that is longer than its schedule's interval overlaps with the next:
    both share the partitions until it ends, so there is no gap.

    The stream is a process of its own. When it dies it is started again within five seconds; what it was at
    is read again, nothing comes twice. While it can't start (PostgreSQL is away, say) it is tried again to
    the shift's end, after pauses that grow from one second to four. Returns how often it was started again.
    Raises StreamDied at the shift's end when its last five starts or more each ended within 30 seconds.

    One that begins when it should have ended (the machine slept) leaves it to the shifts since: else all that
    were missed would be made up for, two at a time.

    Args:
        minutes: How long the shift lasts, a day at most; a minute more than its schedule's interval leaves no
            gap.
    """
    logger = get_run_logger()
    if _seconds_late() >= 60 * minutes:
        logger.warning("This shift was over before it could begin: the shifts since take the topics in.")
        return {"restarts": 0}
    return {"restarts": keep_alive(60 * minutes, lambda left: [*_STREAM, f"{left:.0f}s"], logger.warning)}


def _seconds_late() -> float:
    """How long ago this shift was to begin; one that somebody asks for is to begin then."""
    due: datetime = flow_run.scheduled_start_time
    return load().machine_time() - due.timestamp()


def keep_alive(
    seconds: float, command: Callable[[float], Sequence[str]], tell: Callable[[str], object]
) -> int:
    """Run a command that ends by itself after the seconds it is given, and start it again whenever it dies
    before, while there is time left; returns how often it was started again. One that is still there after
    `_OVERTIME` more is killed: what it was at is read again. Who is interrupted ends it first. Raises
    StreamDied as `event_stream` tells.
    """
    end = time.monotonic() + seconds
    restarts = quick = 0
    said = ""
    while (left := end - time.monotonic()) > 0:
        begun = time.monotonic()
        with subprocess.Popen(
            command(left), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            timer = threading.Timer(left + _OVERTIME, process.kill)
            timer.start()
            try:
                said = _last_line(process)
                process.wait()
            except BaseException:  # the shift was cancelled
                _end(process)
                raise
            finally:
                timer.cancel()
        if process.returncode == 0:
            return restarts
        quick = quick + 1 if time.monotonic() - begun < _QUICK_SECONDS else 0
        pause = pause_after(quick)
        is_over = pause >= end - time.monotonic()
        next_start = "Its shift is over." if is_over else f"It is started again in {pause:.0f} s."
        tell(f"The stream ended with code {process.returncode}, having said: {said}. {next_start}")
        if is_over:
            break
        time.sleep(pause)
        restarts += 1
    if quick >= _QUICK_DEATHS:
        raise StreamDied(f"The stream ended {quick} times in a row, the last time with: {said}")
    return restarts


def pause_after(quick_deaths: int) -> float:
    """Seconds until the next start, after so many that ended at once in a row: 1, 2, then 4."""
    return min(_RESTART_SECONDS * 2.0 ** max(0, min(quick_deaths, 10) - 1), _LONGEST_PAUSE_SECONDS)


def _end(process: subprocess.Popen[str]) -> None:
    """End it cleanly, or kill it when it does not end. What it says meanwhile is read: it must not wait for
    somebody to.
    """
    process.terminate()
    try:
        process.communicate(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()


def _last_line(process: subprocess.Popen[str]) -> str:
    """Follow what the stream says until it ends; its last line is why, if it did not mean to."""
    assert process.stderr is not None
    last = ""
    for line in process.stderr:
        last = line.strip() or last
    return last
