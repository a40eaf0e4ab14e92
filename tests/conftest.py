"""Fixtures for tests on a mounted directory.

A test that asks for `place` gets an empty directory, once on a local file system, which proves that
the test itself is right, and once under each driver. A test that asks for `mount_factory` makes
mounts of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from tests import scratch
from tests.mounting import Mount
from tests.posix.capabilities import CAPABILITIES, DIRECTORY, KERNEL, LOCAL, PYFUSE3, SERVED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.posix.capabilities import Capability

HANG_S = 120.0
"""A test that takes longer is taken to hang; far above the slowest test on a loaded machine."""

HANG_SLOW_S = 900.0
"""The same for tests marked slow."""

_NO_PASSTHROUGH = "[mount]\npassthrough = false\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("memfs")
    group.addoption(
        "--state-root",
        type=Path,
        default=Path("/tmp"),
        help="directory for state directories, mountpoints and the local reference",
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
        "expects_log(*patterns): regular expressions of alarming log lines that the test causes",
    ]:
        config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    places = _chosen_places(metafunc.config)
    if "site" in metafunc.fixturenames:
        marks = metafunc.definition.iter_markers("needs")
        needed = {capability for mark in marks for capability in mark.args}
        if metafunc.definition.get_closest_marker("data_path") is None:
            places = [name for name in places if name != SERVED]
        able = [name for name in places if needed <= CAPABILITIES[name]]
        metafunc.parametrize("site", able, indirect=True, scope="module")
    if "driver" in metafunc.fixturenames:
        drivers = [name for name in places if name in (KERNEL, PYFUSE3)]
        metafunc.parametrize("driver", drivers)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = getattr(item, "callspec", None)
        site = parameters.params.get("site") if parameters else None
        fixtures = getattr(item, "fixturenames", ())
        if site in (KERNEL, SERVED, PYFUSE3) or "mount_factory" in fixtures:
            item.add_marker(pytest.mark.mount)


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
def scratch_area(request: pytest.FixtureRequest) -> Iterator[scratch.Scratch]:
    root = request.config.getoption("--state-root").resolve()
    scratch.remove_leftovers(root)
    area = scratch.Scratch(root)
    yield area
    area.close()


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
        mount = Mount(base, driver, config=_NO_PASSTHROUGH if name == SERVED else None)
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
    slow = request.node.get_closest_marker("slow") is not None
    with site.mount.watched(HANG_SLOW_S if slow else HANG_S):
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
    request: pytest.FixtureRequest, scratch_area: scratch.Scratch
) -> Iterator[MountFactory]:
    mounts: list[Mount] = []

    def make(driver: str, *, config: str | None = None, options: tuple[str, ...] = ()) -> Mount:
        mount = Mount(scratch_area.directory(driver), driver, config, options)
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
