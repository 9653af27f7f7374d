"""What every test may ask for: one PostgreSQL 18 pair, one broker, one Prefect server, however many
processes run the tests; and in each of them a PostgreSQL 15 and a server of simulated APIs.

Each starts when the first test asks for it. Tests keep out of each other's way by databases, topics and
folders of their own.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

from flows.sandbox.prefect_server import QUIET
from tests import memory
from tests.house import VERSIONS, House, Server, give_back

# What helpers assert is told as fully as what tests assert. Tests import them later than this.
pytest.register_assert_rewrite("tests.broker", "tests.flows", "tests.transforms")

# Prefect reads the environment when it is imported, and what a developer has set is not what tests are about.
for _name in [name for name in os.environ if name.startswith(("ANALYTICS_", "PREFECT_"))]:
    del os.environ[_name]
os.environ.update(QUIET, PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL", GX_ANALYTICS_ENABLED="false")
# Nobody looks at the pages of these runs; tests of pages write them themselves.
os.environ["ANALYTICS_PORTAL"] = "off"


# How long examples take to make, and what is tried with them, says how busy the machine is.
hypothesis.settings.register_profile(
    "house", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("house")

_HOUSE = pytest.StashKey[House]()
_TESTS = Path(__file__).parent
_END_TO_END = "tests/flows/end_to_end/"


def pytest_configure(config: pytest.Config) -> None:
    """One house a test run, whether one process or several run the tests."""
    given: dict[str, str] = getattr(config, "workerinput", {})
    folder = Path(given["house"]) if given else _new_folder()
    config.stash[_HOUSE] = House(folder, given.get("workerid", "main"))
    if not given:
        if config.option.basetemp is None and memory.folder() is not None:
            # Tests make and remove a great many files, for each of which a disk looks for room.
            config.option.basetemp = str(folder.with_name("tests"))
        # Who ends a run otherwise than by Ctrl-C means the house too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="house-", dir=memory.folder())) / "sandbox"


def pytest_collection(session: pytest.Session) -> None:
    """Where all tests are asked for, each process compiles its share of the modules first, as their
    assertions are rewritten: in a folder where nothing has run yet that takes half of what collecting does,
    and all would do all of it. What imports something that was taken away is told when it is collected.
    """
    worker: dict[str, Any] | None = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args != session.config.getini("testpaths"):
        return
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for path in sorted(_TESTS.rglob("test_*.py"))[number::count]:
        with suppress(ImportError):
            import_module(".".join(path.relative_to(_TESTS.parent).with_suffix("").parts))


def pytest_collection_finish() -> None:
    """What has been collected stays: looking for garbage, Python needn't go through it each time."""
    gc.collect()
    gc.freeze()


def pytest_configure_node(node: Any) -> None:
    """Tell a process that runs tests where the house is."""
    node.workerinput["house"] = str(node.config.stash[_HOUSE].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last to leave ends the house."""
    house = config.stash[_HOUSE]
    house.leave()
    if not hasattr(config, "workerinput"):
        house.end()
        shutil.rmtree(house.folder.parent, ignore_errors=True)


class _ByWhatTestsShare(LoadFileScheduling):
    """A file's tests run in one process, since they share what a module's fixtures make; so do all that stand
    on the generated company, which only ever goes on.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return _END_TO_END if file.startswith(_END_TO_END) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Which process runs what, where `-n` says that there are several."""
    return _ByWhatTestsShare(config, log)


@pytest.fixture(scope="session")
def house(pytestconfig: pytest.Config) -> House:
    """The services of this test run."""
    return pytestconfig.stash[_HOUSE]


@pytest.fixture(scope="module", autouse=True)
def databases() -> Iterator[None]:
    """A module's tests have databases to themselves, and give them back."""
    yield
    give_back()


@pytest.fixture(scope="session")
def postgres18(house: House) -> Server:
    """PostgreSQL 18."""
    return house.server(18)


@pytest.fixture(scope="session")
def postgres15(house: House) -> Server:
    """PostgreSQL 15; skipped where it is not installed, but not in continuous integration."""
    if 15 not in VERSIONS:
        pytest.skip("PostgreSQL 15 is not installed here")
    return house.server(15)


@pytest.fixture(scope="session")
def connect(house: House) -> str:
    """The address of Kafka Connect, beside the broker of this test run."""
    return house.connect
