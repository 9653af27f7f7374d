"""Make a world, and let it live on.

`<sandbox>/world.json` says what world it is and how far it came; without `done` it is a half-made one. The
log below `<sandbox>/truth/` is written before anything is delivered.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from flows.sandbox.apis.store import Store
from flows.sandbox.world import app, clickstream, mail, orders, people, sendgrid, stripe, topics, truth
from flows.sandbox.world.log import Log
from flows.sandbox.world.shape import (
    BASE,
    DAY,
    DEFAULT_END,
    DEFAULT_SEED,
    LATEST,
    SECOND,
    Shape,
    WorldError,
    micros,
    moment,
)
from flows.sandbox.world.state import people as people_at

FORMAT = 3
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done and how many there are."""
Clock = Callable[[datetime], timedelta]
"""Called with the new end before the application's changes are committed and the first message is sent:
nobody may find what is ahead of its clock. Gives how far the world's time is from the machine's from then
on."""


@dataclass(frozen=True)
class World:
    """What world it is and how far it came."""

    folder: Path
    shape: Shape
    periods: int
    """Days delivered so far."""
    stops: tuple[int, ...]
    """The ends it has had (microseconds): after creation and after each advance."""
    commits: tuple[int, ...]
    """When the application committed each of them, in the world's time (microseconds): from then on its
    changes hold. Of creation, which nobody reads as changes, the end itself.
    """
    positions: topics.Positions
    """Where each topic ends."""
    pending: int | None = None
    """Days that an advance, once begun, has to come to."""
    done: bool = False

    @property
    def start(self) -> datetime:
        """The first moment with events."""
        return moment(self.shape.start)

    @property
    def end(self) -> datetime:
        """The world's now when the last delivery was complete."""
        return moment(self.shape.period_start(self.periods))

    @property
    def log(self) -> Log:
        """What the generator did."""
        return Log(self.folder / "truth" / "log")

    def save(self) -> None:
        """Write world.json in one step."""
        content = {"format": FORMAT, "end": self.end.isoformat(), **asdict(self)}
        content.pop("folder")
        path = self.folder / "world.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)

    @staticmethod
    def load(folder: Path) -> World | None:
        """The world of a sandbox, half-made ones included; None if there is none."""
        path = folder / "world.json"
        if not path.exists():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise WorldError(
                f"{path} was written by another version; `python -m flows sandbox reset` makes a new world."
            )
        return World(
            folder=folder,
            shape=Shape(**content["shape"]),
            periods=content["periods"],
            stops=tuple(content["stops"]),
            commits=tuple(content["commits"]),
            positions=content["positions"],
            pending=content["pending"],
            done=content["done"],
        )


def exists(folder: Path) -> bool:
    """Whether a sandbox has a whole world; a half-made one does not count."""
    world = World.load(folder)
    return world is not None and world.done


def create(
    folder: Path,
    app_dsn: str,
    kafka_bootstrap: str,
    apis_db: Path,
    *,
    seed: int = DEFAULT_SEED,
    until: datetime = DEFAULT_END,
    days: int,
    events_per_day: int,
    users: int,
    newcomers: int | None = None,
    orders: int,
    progress: Progress | None = None,
    has_tables: Callable[[], None] | None = None,
) -> World:
    """Generate a world of `days` days that ends at `until` and deliver it everywhere. `has_tables` is called
    once the application's tables are there and filled. Of the users, `newcomers` sign up in these days; None:
    two fifths.

    Everything a former world left in the application's schema public, the three topics, the API store
    (`apis_db` is its file, apis.sqlite) and `<folder>/truth` is thrown away first. Interrupted, it leaves a
    world that `exists` denies.
    """
    end = micros(until) // SECOND * SECOND
    joining = users * 2 // 5 if newcomers is None else newcomers
    shape = Shape(seed, end - days * DAY, days, events_per_day, users, joining, orders)
    shutil.rmtree(folder / "truth", ignore_errors=True)
    nowhere: topics.Positions = {topic: [0] * clickstream.PARTITIONS for topic in clickstream.TOPICS}
    world = World(folder, shape, 0, (), (), nowhere)
    folder.mkdir(parents=True, exist_ok=True)
    world.save()
    topics.create(kafka_bootstrap)
    world.log.write("users", BASE, people.users(shape, BASE))
    return _live(world, days, app_dsn, kafka_bootstrap, apis_db, progress, has_tables=has_tables)


def advance(
    folder: Path,
    app_dsn: str,
    kafka_bootstrap: str,
    apis_db: Path,
    *,
    days: int = 1,
    rate: float | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> World:
    """Let the world of a sandbox live on for `days` days: new rows, updates, deletions, late arrivals; at
    most `rate` messages a second. `clock` is told the new end before anybody can see something of it.

    An advance that was interrupted is finished by the next one, which then goes no further. Raises
    WorldError without a world.
    """
    world = World.load(folder)
    if world is None or not world.done:
        raise WorldError(f"There is no world in {folder}; `python -m flows sandbox start` makes one.")
    if world.pending is None:
        world = replace(world, pending=world.periods + days, positions=topics.positions(kafka_bootstrap))
        world.save()
    assert world.pending is not None
    return _live(world, world.pending, app_dsn, kafka_bootstrap, apis_db, progress, rate, clock)


def _live(
    world: World,
    until: int,
    app_dsn: str,
    bootstrap: str,
    apis_db: Path,
    progress: Progress | None,
    rate: float | None = None,
    clock: Clock | None = None,
    has_tables: Callable[[], None] | None = None,
) -> World:
    """Deliver the periods [world.periods, until).

    1. each period's people, orders and mails are drawn and logged;
    2. the APIs' objects are brought to the new end, in one transaction;
    3. the application's tables, in one transaction; right before its commit the clock shows the new end;
    4. each period's messages are drawn, logged and sent to the topics;
    5. the truth is counted from the log;
    6. world.json says so.
    A crash before 6 is made good by doing it all again: 3 changes nothing that it has committed, 4 sends only
    what the topics do not hold yet.
    """
    shape, log, steps = world.shape, world.log, until - world.periods + 3
    told = progress or (lambda _what, _done, _all: None)
    there = topics.positions(bootstrap)
    places = world.positions
    periods = range(world.periods, until)
    drawn = []
    known = log.read("users", world.periods)
    for period in periods:
        new = people.users(shape, period)
        known = pl.concat([known, new])
        placed_orders = orders.orders(shape, period, known)
        log.write("users", period, new)
        log.write("changes", period, people.changes(shape, period))
        log.write("orders", period, placed_orders)
        log.write("mails", period, mail.mails(shape, period, known, placed_orders))
        drawn.append((known, placed_orders))
    before, now = shape.period_start(world.periods), shape.period_start(until)
    told("Stripe and SendGrid", 0, steps)
    _tell_apis(apis_db, log, until, before if world.periods else -1, now)
    told("application database", 1, steps)
    if world.periods == 0:
        app.create(app_dsn, shape, log, until, now)
        committed = now
    else:
        ahead = timedelta(0)

        def committing() -> None:
            nonlocal ahead
            ahead = clock(moment(now)) if clock is not None else ahead

        committed = app.advance(app_dsn, shape, log, until, before, now, committing)
        committed += ahead // timedelta(microseconds=1)
    if has_tables is not None:
        has_tables()
    with topics.Sender(bootstrap) as sender:
        for number, (period, (users, placed_orders)) in enumerate(zip(periods, drawn, strict=True)):
            told(f"events of {moment(shape.period_start(period)):%Y-%m-%d}", number + 2, steps)
            due = _due(shape, log, period, clickstream.messages(shape, period, users, placed_orders))
            sent = topics.placed(due, places)
            log.write("deliveries", period, sent.drop("value", "key", "attempt"))
            sender.send(sent, there, rate)
            places = topics.following(places, sent)
        sender.finish(places)
    told("the truth", steps - 1, steps)
    world = replace(
        world,
        periods=until,
        stops=(*world.stops, now),
        commits=(*world.commits, committed),
        positions=places,
        pending=None,
        done=True,
    )
    truth.write(world.folder / "truth", shape, log, until, world.stops, world.commits)
    world.save()
    told("the world", steps, steps)
    return world


def _due(shape: Shape, log: Log, period: int, drawn: pl.DataFrame) -> pl.DataFrame:
    """What is sent in `period`: its own messages that are not late, and the late ones of the days before."""
    start, end = shape.period_start(period), shape.period_start(period + 1)
    log.write("late", period, drawn.filter(pl.col("sent_at") >= end))
    own = drawn.filter(pl.col("sent_at") < end)
    first = max(0, period - LATEST // DAY - 2)
    if first == period:
        return own
    arriving = (
        log.scan("late", first, period)
        .filter((pl.col("sent_at") >= start) & (pl.col("sent_at") < end))
        .collect()
    )
    return pl.concat([arriving, own]).sort("sent_at", maintain_order=True)


def _tell_apis(apis_db: Path, log: Log, periods: int, after: int, now: int) -> None:
    store = Store(apis_db.parent)
    users = log.read("users", periods)
    # Stripe hears of a user at once, also of one whose row is late.
    customers = people_at(
        users.with_columns(arrives_at=pl.col("created_at")), log.read("changes", periods), now
    )
    cards = stripe.by_card(log.read("orders", periods))
    mails = log.read("mails", periods)
    try:
        with store.transaction():
            if after < 0:
                store.clear()
            store.put("customers", stripe.customers(customers, after))
            store.put("charges", stripe.charges(cards, after, now))
            store.put("refunds", stripe.refunds(cards, after, now))
            store.put("disputes", stripe.disputes(cards, after, now))
            store.put("balance_transactions", stripe.balance_transactions(cards, after, now))
            store.put("payouts", stripe.payouts(cards, after, now))
            store.put("events", stripe.events(cards, customers, after, now))
            store.put("messages", sendgrid.messages(mails, after, now))
            store.put("stats", sendgrid.stats(mails, max(after, 0), now))
            for kind in ("bounces", "blocks", "spam_reports", "unsubscribes"):
                store.put(kind, sendgrid.suppressions(mails, kind, after, now))
    finally:
        store.close()
