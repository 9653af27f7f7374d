"""Dead letters for those who read Kafka: each of the stream's goes to `<topic>.dead` too, if asked for.

The store in the warehouse stays the one place where letters are kept; a topic is a copy for whoever wants to
be told. It is told at least once: what was produced is noted after the broker has confirmed it, so a crash in
between sends a letter again. The headers `topic`, `partition` and `offset` say which record it is about: who
has met that place before has met the letter.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self

import duckdb
import psycopg
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg import Connection

from flows import deadletters
from flows.deadletters import Stored
from flows.errors import FlowsError
from flows.extract import DeadLetter
from flows.landed import STREAMED
from flows.progress import Progress
from flows.services import Services
from flows.stores.ledger import Ledger
from flows.streaming.journal import Journal
from flows.streaming.route import Route

SUFFIX = ".dead"

_SECONDS = 10.0
"""How long the broker may take for one portion; what it has not confirmed by then is sent again later."""
_LETTERS_AT_ONCE = 500
_BYTES_AT_ONCE = 32 << 20
_LARGEST = 1_000_000_000
"""The most that the client lets one set: what is too large is for the broker to say."""
_PASSING = (FlowsError, KafkaException, psycopg.Error, duckdb.Error, OSError)
"""What may fail here without harm: the letters are safe in the store."""
_log = logging.getLogger(__name__)


class DeadTopics:
    """Forwards the letters that a stream has entered and that were not forwarded yet.

    All of it happens beside the stream, in a thread of its own: the stream never waits for it, and nothing
    that fails here reaches it. A `with` block ends it, and gives the last letters a moment. Without the
    setting it does nothing.
    """

    def __init__(self, services: Services, route: Route, progress: Progress) -> None:
        self._services = services
        self._route = route
        self._progress = progress
        self._wake = threading.Event()
        self._is_over = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._services.settings.dead_topics:
            self._thread = threading.Thread(target=self._live, name="dead topics", daemon=True)
            self._thread.start()
            self._wake.set()  # what a crash, or a broker that was away, has left
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(2 * _SECONDS)

    def tell(self, letters: Sequence[DeadLetter]) -> None:
        """These letters are committed: they are forwarded soon, with whatever else waits. Returns at once."""
        if letters:
            self._wake.set()

    # ------------------------------------------------------------------------------------------- the thread

    def _live(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait()
            self._wake.clear()
            is_last = self._is_over
            try:
                self._forward()
            except _PASSING as error:
                _log.debug("dead topics", exc_info=True)
                self._say(f"Dead letters wait in ops.dead_letter to be forwarded with the next one: {error}")

    def _forward(self) -> None:
        """Portion by portion: produce, wait for the broker, note what it has confirmed."""
        with self._services.ledger() as ledger, ledger.locked("forward", "dead_letter"):
            letters = self._unforwarded(ledger.connection)
            if not letters:
                return
            unmade = self._create_topics({letter.topic or "" for letter in letters})
            with closing(Producer(self._producer_options(), logger=_log)) as producer:
                while letters:
                    landed = self._landed(ledger.connection, letters)
                    confirmed, told = _produce(producer, letters, landed, unmade)
                    ledger.connection.execute(
                        "update ops.dead_letter set forwarded_at = clock_timestamp() "
                        "where letter_id = any(%s)",
                        (confirmed,),
                    )
                    for sentence in told:
                        self._say(sentence)
                    if len(confirmed) < len(letters):
                        return
                    letters = self._unforwarded(ledger.connection)

    def _unforwarded(self, connection: Connection[Any]) -> list[Stored]:
        rows = connection.execute(
            "select letter_id from (select letter_id, row_number() over oldest as number, "
            "sum(length(payload)) over oldest - length(payload) as before from ops.dead_letter "
            "where forwarded_at is null and topic = any(%s) and starts_with(batch_id, %s) "
            "window oldest as (order by received_at, letter_id)) as waiting "
            "where number <= %s and before < %s",
            (list(self._route.topics), STREAMED, _LETTERS_AT_ONCE, _BYTES_AT_ONCE),
        ).fetchall()
        return deadletters.load(connection, [letter for (letter,) in rows])

    def _landed(self, connection: Connection[Any], letters: Sequence[Stored]) -> dict[str, dict[str, Any]]:
        """The raw records of the letters, by letter: it is they that have key and headers."""
        found: dict[str, dict[str, Any]] = {}
        for topic, entity in self._route.topics.items():
            places = {
                (letter.batch_id or "", letter.seq or 0): letter.letter_id
                for letter in letters
                if letter.topic == topic
            }
            if not places:
                continue
            waiting = Journal(connection).unlanded(entity.table)
            files = [*Ledger(connection).files(entity.table), *(batch.file for batch in waiting)]
            with self._services.lake.duckdb() as duck:
                times = deadletters.known_times(letters)
                rows = deadletters.landed_rows(duck, self._services.lake, files, places, times)
                table = rows.to_arrow_table().to_pylist() if rows is not None else []
            found |= {places[row["_batch_id"], row["_seq"]]: row for row in table}
        return found

    # ------------------------------------------------------------------------------------------- the broker

    def _options(self) -> dict[str, Any]:
        settings = self._services.settings
        return {
            "bootstrap.servers": settings.require("kafka_bootstrap"),
            "client.id": "analytics-dead-letters",
            **settings.kafka_options,
        }

    def _producer_options(self) -> dict[str, Any]:
        return {
            "message.timeout.ms": int(_SECONDS * 1000),
            "message.max.bytes": _LARGEST,
            # A broker refuses a batch whole: one letter that is too large must not take others with it.
            "batch.num.messages": 1,
            "enable.idempotence": True,
            **self._options(),
        }

    def _create_topics(self, topics: set[str]) -> dict[str, str]:
        """Those that are missing. Returns why one could not be made: it matters only where nothing can be
        produced, since a login that may make no topics may write to one that is there.
        """
        wanted = [NewTopic(topic + SUFFIX, num_partitions=1) for topic in sorted(topics)]
        admin = AdminClient(self._options(), logger=_log)
        unmade: dict[str, str] = {}
        for name, made in admin.create_topics(wanted).items():
            try:
                made.result(_SECONDS)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    unmade[name] = error.args[0].str()
        return unmade

    def _say(self, sentence: str) -> None:
        self._progress.say("stream", sentence)


def _produce(
    producer: Producer,
    letters: Sequence[Stored],
    landed: Mapping[str, Mapping[str, Any]],
    unmade: Mapping[str, str],
) -> tuple[list[str], list[str]]:
    """Letters that the broker has confirmed or will never take, and what there is to say about others.
    `unmade`: why topics could not be made.
    """
    confirmed: list[str] = []
    told: dict[str, None] = {}

    def note(letter: Stored, error: KafkaError | None) -> None:
        where = f"{letter.topic}{SUFFIX}"
        if error is None:
            confirmed.append(letter.letter_id)
        elif error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE):
            # Trying again would change nothing, and would keep all behind it waiting.
            confirmed.append(letter.letter_id)
            told[f"{letter.place}: too large for {where} (max.message.bytes), in ops.dead_letter only"] = None
        else:
            why = f"; it could not be made: {unmade[where]}" if where in unmade else ""
            told[f"{where} takes no dead letters ({error.str()}{why}); they wait for the next one"] = None

    for letter in letters:
        row = landed.get(letter.letter_id, {"key": None, "headers": (), "value": letter.payload})
        headers = [(header["name"], header["value"]) for header in row["headers"] or ()]
        about = {
            "reason": letter.reason,
            "topic": letter.topic,
            "partition": letter.kafka_partition,
            "offset": letter.kafka_offset,
        }
        headers += [(name, str(value).encode()) for name, value in about.items()]

        def confirm(error: KafkaError | None, _: Message, letter: Stored = letter) -> None:
            note(letter, error)

        try:
            producer.produce(
                f"{letter.topic}{SUFFIX}", row["value"], row["key"], headers=headers, on_delivery=confirm
            )
        except KafkaException as error:
            note(letter, error.args[0])
    producer.flush(_SECONDS + 1)
    return confirmed, list(told)
