"""Fixtures for tests on a mounted directory.

A test that asks for `place` gets an empty directory, once on a local file system, which proves that
the test itself is right, and once under each driver. A test that asks for `mount_factory` makes
mounts of its own.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest

from tests import scratch
from tests.descriptors import LeftOpenError, check_open
from tests.mounting import UNDISTURBED, Mount
from tests.posix.capabilities import CAPABILITIES, DIRECTORY, KERNEL, LOCAL, PYFUSE3, SERVED
from tests.servers.process import READY
from tests.trio_limits import with_limit
from tests.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from pytest_timeout import Settings

    from tests.browser import Browser
    from tests.posix.capabilities import Capability
    from tests.servers.azurite import AzureServer
    from tests.servers.fake_gcs import GcsServer
    from tests.servers.postgresql import Database, PostgresServer
    from tests.servers.seaweedfs import S3Server

# Containers are often told to keep no bytecode. Each of the thousand processes of a run would then
# compile all modules of memfs, which is half of a daemon's start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# A shell starts what runs in the background with Ctrl-C ignored, and programs that tests start
# would ignore it as well. A handler is not inherited: they begin as in the foreground.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A second process of the machine can take any example longer than 200 ms, and tells nothing.
hypothesis.settings.register_profile("beside load", deadline=None)
hypothesis.settings.load_profile("beside load")

SLOW_LIMIT_S = 900
"""The limit of a test marked slow; the others have that of pyproject.toml."""

DISK = Path("/tmp")

_WATCHDOG = pytest.StashKey[Watchdog]()
_LIMIT_S = pytest.StashKey[float]()
_OPEN_COUNT = pytest.StashKey[int]()

_NO_PASSTHROUGH = "[mount]\npassthrough = false\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("memfs")
    group.addoption(
        "--state-root",
        type=Path,
        help="directory for state directories, mountpoints and the local reference (default: "
        f"{DISK}, and /dev/shm for the mounts of tests/tiers and tests/crash)",
    )
    group.addoption(
        "--places",
        default=",".join([LOCAL, KERNEL, SERVED, PYFUSE3]),
        help="where the mount tests run, separated by commas (default: %(default)s)",
    )
    group.addoption(
        "--directory",
        type=Path,
        help="run the mount tests in this existing directory instead, whatever serves it",
    )


def pytest_configure(config: pytest.Config) -> None:
    for line in [
        "needs(*capabilities): runs only under drivers that have them, by the capability table",
        "data_path: runs also under the kernel driver without passthrough",
        "any_driver: runs under one driver, the first of those chosen: no driver can break it",
        "only_at(*places): runs at these places and in what `--directory` names",
        "expects_log(*patterns): regular expressions of alarming log lines that the test causes",
    ]:
        config.addinivalue_line("markers", line)
    if "TMPDIR" not in os.environ and (memory := scratch.memory_root()) is not None:
        # `tmp_path`, and the files of servers. The syncs of a run wait for a disk longer than all
        # else takes.
        os.environ["TMPDIR"] = tempfile.tempdir = os.fspath(memory)
    # Before capturing begins again: what is printed when a test hangs is to be seen.
    config.stash[_WATCHDOG] = Watchdog(os.dup(2))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> bool | None:
    item.config.stash[_WATCHDOG].begin(settings.timeout)
    item.stash[_LIMIT_S] = settings.timeout or 0.0
    # A test in trio's loop has a limit of its own kind.
    return True if item.get_closest_marker("trio") else None


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Before pytest-trio takes the test: its fixtures are left to the watchdog."""
    if item.get_closest_marker("trio"):
        assert isinstance(item, pytest.Function)
        limit_s = item.stash.get(_LIMIT_S, 0.0)
        hypothesis = getattr(item.obj, "hypothesis", None)
        if hypothesis is None:
            item.obj = with_limit(item.obj, limit_s)
        elif inspect.iscoroutinefunction(hypothesis.inner_test):
            # Parametrized tests share it, and the first of them has wrapped it.
            hypothesis.inner_test = with_limit(hypothesis.inner_test, limit_s)
    return (yield)


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    counts = item.config.stash
    before = counts.get(_OPEN_COUNT, 0)
    try:
        counts[_OPEN_COUNT] = check_open(before)
    except LeftOpenError as error:
        # The next one is not to blame.
        counts[_OPEN_COUNT] = error.count
        raise
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        # Not when pytest-timeout's timer is cancelled: a failure does that, before its clean-up.
        item.config.stash[_WATCHDOG].begin(0)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """A name that is no UTF-8, in what a test has logged or printed, would end the whole run."""
    return encodable((yield))


def encodable(value: object) -> object:
    """Return lists, dicts and texts with what cannot be encoded escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {encodable(key): encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(encodable(each) for each in value)
    return value


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    places = _chosen_places(metafunc.config)
    if "site" in metafunc.fixturenames:
        marks = metafunc.definition.iter_markers("needs")
        needed = {capability for mark in marks for capability in mark.args}
        if metafunc.definition.get_closest_marker("data_path") is None:
            places = [name for name in places if name != SERVED]
        for mark in metafunc.definition.iter_markers("only_at"):
            places = [name for name in places if name in (*mark.args, DIRECTORY)]
        if metafunc.definition.get_closest_marker("any_driver"):
            places = [name for name in places if name not in _drivers(places)[1:]]
        able = [name for name in places if needed <= CAPABILITIES[name]]
        metafunc.parametrize("site", able, indirect=True, scope="module")
    if "driver" in metafunc.fixturenames:
        drivers = _drivers(places)
        if metafunc.definition.get_closest_marker("any_driver"):
            drivers = drivers[:1]
        metafunc.parametrize("driver", drivers)


def _drivers(places: list[str]) -> list[str]:
    return [name for name in places if name in (KERNEL, PYFUSE3)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = getattr(item, "callspec", None)
        site = parameters.params.get("site") if parameters else None
        fixtures = getattr(item, "fixturenames", ())
        if site in (KERNEL, SERVED, PYFUSE3) or "mount_factory" in fixtures:
            item.add_marker(pytest.mark.mount)
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S))
    # One that begins last would run alone, while the other processes have nothing left to do.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def _chosen_places(config: pytest.Config) -> list[str]:
    if config.getoption("--directory") is not None:
        return [DIRECTORY]
    chosen = [name for name in config.getoption("--places").split(",") if name]
    if unknown := set(chosen) - set(CAPABILITIES):
        raise pytest.UsageError(f"--places: unknown {sorted(unknown)}; use {list(CAPABILITIES)}")
    return chosen


@dataclass(frozen=True)
class Site:
    """Where the tests of one module run."""

    name: str
    root: Path
    capabilities: frozenset[Capability]
    mount: Mount | None
    """None for a directory that memfs does not serve."""


class MountFactory(Protocol):
    """Makes a started mount, which the fixture stops and checks at the end of the test."""

    def __call__(
        self, driver: str, *, config: str | None = None, options: tuple[str, ...] = ()
    ) -> Mount:
        """A mount of a new state directory."""
        ...


@pytest.fixture(scope="session")
def disk_area(request: pytest.FixtureRequest) -> Iterator[scratch.Scratch]:
    """On the disk, or where `--state-root` says."""
    yield from _area(request.config.getoption("--state-root") or DISK)


@pytest.fixture(scope="session")
def memory_area(request: pytest.FixtureRequest) -> Iterator[scratch.Scratch]:
    """In memory, or where `--state-root` says: syncing costs nothing there.

    What survives a process that is killed does not depend on where it lies.
    """
    yield from _area(request.config.getoption("--state-root") or scratch.memory_root() or DISK)


def _area(root: Path) -> Iterator[scratch.Scratch]:
    scratch.remove_leftovers(root.resolve())
    area = scratch.Scratch(root.resolve())
    yield area
    area.close()


@pytest.fixture(scope="session")
def scratch_area(disk_area: scratch.Scratch) -> scratch.Scratch:
    """Where the mounts of a test are; tests of the mover and of kills have theirs in memory."""
    return disk_area


@pytest.fixture(scope="session", autouse=True)
def _watchdog(
    request: pytest.FixtureRequest,
    disk_area: scratch.Scratch,
    memory_area: scratch.Scratch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    watchdog = request.config.stash[_WATCHDOG]
    watchdog.start(disk_area.path, memory_area.path, tmp_path_factory.getbasetemp())
    yield
    watchdog.stop()


# The servers hold the empty bucket `READY`; a module makes one of its own where it lists a bucket.


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    from tests.servers.seaweedfs import running_seaweedfs

    with running_seaweedfs(READY) as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    from tests.servers.moto import running_moto

    with running_moto(READY) as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    from tests.servers.fake_gcs import running_fake_gcs

    with running_fake_gcs(READY) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server() -> Iterator[AzureServer]:
    from tests.servers.azurite import running_azurite

    with running_azurite(READY) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    from tests.servers.postgresql import running_postgresql

    with running_postgresql() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[Database]:
    """An empty database, gone after the test."""
    with postgres_server.database() as database:
        yield database


@pytest.fixture(scope="session")
def _window() -> Iterator[Browser]:
    from tests.browser import browsing

    with browsing() as browser:
        yield browser


@pytest.fixture
def browser(_window: Browser) -> Iterator[Browser]:
    """A browser, which has told nothing yet; it takes seconds to start, and starts once."""
    _window.reset()
    yield _window
    _window.reset()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, scratch_area: scratch.Scratch) -> Iterator[Site]:
    name = request.param
    base = scratch_area.directory(name)
    mount = None
    if name == LOCAL:
        root = base
    elif name == DIRECTORY:
        root = request.config.getoption("--directory").resolve() / base.name
        root.mkdir(mode=0o755)
    else:
        driver = KERNEL if name == SERVED else name
        config = _NO_PASSTHROUGH if name == SERVED else None
        mount = Mount(base, driver, config, UNDISTURBED, forked=True)
        mount.start()
        root = mount.root
    yield Site(name, root, CAPABILITIES[name], mount)
    try:
        if mount is not None:
            mount.stop()
            mount.check_log()
            mount.fsck()
    finally:
        scratch.remove(base)
        if name == DIRECTORY:
            scratch.remove(root)


@pytest.fixture
def place(request: pytest.FixtureRequest, site: Site) -> Iterator[Path]:
    """An empty directory of the test's own, mode 0755, owned by root."""
    test = re.sub(r"\W+", "-", request.node.originalname)[:24]
    serial = sum(1 for _ in site.root.iterdir())
    directory = site.root / f"{serial:03}-{test}"
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    if site.mount is None:
        yield directory
        return
    expected = tuple(
        pattern for mark in request.node.iter_markers("expects_log") for pattern in mark.args
    )
    yield directory
    site.mount.check_log(expected)


@pytest.fixture
def capabilities(site: Site) -> frozenset[Capability]:
    """What the file system that serves `place` can do."""
    return site.capabilities


@pytest.fixture
def reference(request: pytest.FixtureRequest, scratch_area: scratch.Scratch) -> Iterator[Path]:
    """An empty directory on the local file system, to compare `place` with."""
    directory = scratch_area.directory("reference")
    yield directory
    scratch.remove(directory)


@pytest.fixture
def mount_factory(
    request: pytest.FixtureRequest, scratch_area: scratch.Scratch, tmp_path: Path
) -> Iterator[MountFactory]:
    """The mounts end before `tmp_path`, which may have their object store."""
    mounts: list[Mount] = []

    def make(driver: str, *, config: str | None = None, options: tuple[str, ...] = ()) -> Mount:
        base = scratch_area.directory(driver)
        mount = Mount(base, driver, config, (*UNDISTURBED, *options), forked=True)
        mounts.append(mount)
        mount.start()
        return mount

    expected = tuple(
        pattern for mark in request.node.iter_markers("expects_log") for pattern in mark.args
    )
    try:
        yield make
        for mount in mounts:
            mount.stop()
            mount.check_log(expected)
            mount.fsck()
    finally:
        for mount in mounts:
            scratch.remove(mount.base)
