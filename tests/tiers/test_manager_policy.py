"""A migration policy is a mark of a manager's directory: it holds for its values alone."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from memfs import MemoryManager, MigrationPolicy
from tests.outcomes import error_of
from tests.posix.capabilities import Capability
from tests.tiers.tiering import compressible, residence, told, wait_until_at
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mounting import Mount

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS), pytest.mark.any_driver]

DATA = compressible(200_000, 3)
FAR_OFF = 3000


def of(place: Path, mount: Mount, name: str, policy: MigrationPolicy | None) -> MemoryManager:
    root = f"{place.relative_to(mount.root)}/{name}"
    return MemoryManager(mount=place, root=root, migration_policy=policy)


def test_values_go_as_the_policy_of_their_manager_says(place: Path, mount: Mount) -> None:
    kept = of(place, mount, "kept", None)
    leaving = of(place, mount, "leaving", MigrationPolicy(24, 0, FAR_OFF))
    archived = of(place, mount, "archived", MigrationPolicy(24, 72, 0))
    for manager in (kept, leaving, archived):
        manager.store("d/k", DATA)
    wait_until_at("glacier", archived.path("d/k"))
    assert archived.why("d/k")["rule"] == "age"
    assert "user.memfs.policy cold_to_glacier" in archived.why("d/k")["detail"]
    # Taken into RAM as all that is written, and out again.
    leaving["d/k"]
    wait_for(lambda: leaving.why("d/k")["rule"] == "age", lambda: leaving.why("d/k"))
    wait_for(lambda: told(leaving.path("d/k"), "tier") == "cold", lambda: leaving.why("d/k"))
    assert residence(leaving.path("d/k")).forms == ["raw"]
    assert residence(kept.path("d/k")).forms == ["raw"]


def test_the_mark_is_inherited_and_told(place: Path, mount: Mount) -> None:
    manager = of(place, mount, "m", MigrationPolicy(24, 12, 30))
    path = manager.store("a/b", b"1").path
    expected = {"warm_to_cold": "12 h", "cold_to_glacier": "30 d", "hot_to_warm": "1 d"}
    assert json.loads(os.getxattr(path, "user.memfs.policy")) == expected
    assert error_of(os.getxattr, place, "user.memfs.policy") == "ENODATA"
    os.setxattr(path, "user.memfs.policy", b'{"pack_after": "1h"}')
    assert json.loads(os.getxattr(path, "user.memfs.policy")) == {"pack_after": "1 h"}
    os.removexattr(path, "user.memfs.policy")
    assert json.loads(os.getxattr(path, "user.memfs.policy")) == expected
    for wrong in (b"", b"12h", b'{"warm": "1h"}', b'{"pack_after": "x"}'):
        assert error_of(os.setxattr, path, "user.memfs.policy", wrong) == "EINVAL"
    assert json.loads(os.getxattr(path, "user.memfs.policy")) == expected


def test_a_level_of_compression_holds_for_what_is_packed_later(place: Path, mount: Mount) -> None:
    manager = of(place, mount, "c", None)
    manager.store("now", DATA, tier="cold", durable=True)
    wait_until_at("cold", manager.path("now"))
    manager.compress(tier="cold", compression_level=5)
    assert os.getxattr(manager.store("later", DATA).path, "user.memfs.codec") == b"zstd:5"
