"""The mount of a module of tier tests: with the module's own configuration, else small frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import scratch
from tests.conftest import Site
from tests.mounting import UNDISTURBED, Mount, run_memfs
from tests.posix.capabilities import CAPABILITIES, KERNEL, SERVED
from tests.tiers.tiering import SMALL_FRAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SERVED = "\n[mount]\npassthrough = false\n"


@pytest.fixture(scope="session")
def scratch_area(memory_area: scratch.Scratch) -> scratch.Scratch:
    """What is moved, when and why does not depend on the disk."""
    return memory_area


@pytest.fixture(scope="module")
def tier_config(request: pytest.FixtureRequest) -> str:
    """The configuration of the module's mount; a module overrides it by a fixture of that name.

    `SITE` in it becomes the name of the site: fsck reports what others have below the same prefix.
    """
    return SMALL_FRAMES


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, scratch_area: scratch.Scratch, tier_config: str
) -> Iterator[Site]:
    """A mount whose state directory `memfs fsck --verify` finds whole in the end."""
    name = request.param
    base = scratch_area.directory(name)
    driver, config = name, tier_config.replace("SITE", name)
    if name == SERVED:
        driver, config = KERNEL, config + _SERVED
    mount = Mount(base, driver, config, UNDISTURBED, forked=True)
    try:
        mount.start()
        yield Site(name, mount.root, CAPABILITIES[name], mount)
        mount.stop()
        mount.check_log()
        verify(mount)
    finally:
        scratch.remove(base)


@pytest.fixture
def mount(site: Site, place: Path) -> Mount:
    """What serves `place`."""
    assert site.mount is not None
    return site.mount


def verify(mount: Mount) -> None:
    """Check the state directory of a stopped mount, every byte of it."""
    run_memfs("fsck", "--verify", "-c", mount.base / "config.toml", mount.state)
