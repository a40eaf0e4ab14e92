"""`user.memfs.why` while a file is on its way: the pin, how far it is, and nothing that is past."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from memfs.client.placement import Placement
from memfs.metadata.records import Decision, PendingMove
from memfs.policy import rules
from memfs.types import ROOT_INODE, PendingCode, Tier
from memfs_tools.commands.why import _lines

if TYPE_CHECKING:
    from memfs.types import InodeNo
    from tests.property.world import World

SEALED = Decision(rules.SEAL, "written or used just now", 4096, 1)


class Queue:
    """That of a mover that has decided on one file."""

    def __init__(self, ino: InodeNo) -> None:
        self._ino = ino

    def wanted(self, ino: InodeNo) -> Tier | None:
        return Tier.GLACIER if ino == self._ino else None


@pytest.fixture
def ino(world: World) -> InodeNo:
    """A sealed file that lies on the disk by the decision `SEALED`."""
    file = world.create(ROOT_INODE, b"file", 0o644, os.O_RDWR)
    world.release(file)
    why(world, file.ino)
    world.run(world.engine.record_decision(file.ino, SEALED))
    return file.ino


def why(world: World, ino: InodeNo) -> dict[str, Any]:
    value = world.run(world.filesystem.get_xattr(world.program, ino, b"user.memfs.why"))
    return dict(json.loads(value))


def pin(world: World, ino: InodeNo, tier: Tier) -> None:
    world.run(world.engine.set_pin(ino, tier))


def test_right_after_a_pin_the_pin_is_the_reason(world: World, ino: InodeNo) -> None:
    """What was decided before is not why it is to move."""
    assert why(world, ino)["rule"] == rules.SEAL
    pin(world, ino, Tier.GLACIER)
    told = why(world, ino)
    assert told["rule"] == rules.PIN
    assert told["detail"] == "pinned to glacier; on its way"
    assert "bytes" not in told
    pin(world, ino, Tier.COLD)
    assert why(world, ino)["detail"] == "pinned to cold, where it is"


def test_the_decision_of_an_earlier_pin_is_not_told(world: World, ino: InodeNo) -> None:
    world.run(world.engine.record_decision(ino, Decision(rules.PIN, "pinned to cold", 0, 1)))
    pin(world, ino, Tier.GLACIER)
    assert why(world, ino)["detail"] == "pinned to glacier; on its way"


def test_what_befell_a_pinned_file_is_told(world: World, ino: InodeNo) -> None:
    """A damaged file is damaged wherever it is pinned to."""
    world.run(world.engine.record_decision(ino, Decision(rules.DAMAGED, "bad", 0, 1)))
    pin(world, ino, Tier.GLACIER)
    assert why(world, ino)["rule"] == rules.DAMAGED


def test_a_move_under_way_tells_how_far_it_is(world: World, ino: InodeNo) -> None:
    """Also one that hangs: it is no file without a decision."""
    progress = world.move_parts.progress
    progress.queue = Queue(ino)
    assert "waits for its turn" in why(world, ino)["pending"]["reason"]
    with progress.track("upload", ino, 200 << 20) as move:
        move.done_bytes = 50 << 20
        told = why(world, ino)["pending"]
    assert told == {
        "wanted": "glacier",
        "code": "other",
        "reason": "upload under way: 50.0 MiB of 200.0 MiB",
        "attempts": 0,
        "retry_ns": 0,
        "until_ns": 0,
    }


def test_a_rule_is_shown_by_its_name(world: World, ino: InodeNo) -> None:
    rule = rules.qualified(rules.INCOMPRESSIBLE, 3, "zstd:3")
    world.run(world.engine.record_decision(ino, Decision(rule, "it stays raw", 0, 1)))
    told = why(world, ino)
    assert (told["rule"], told["trigger"]) == (
        rules.INCOMPRESSIBLE,
        rules.TRIGGERS[rules.INCOMPRESSIBLE],
    )


@pytest.mark.parametrize(("attempts", "said"), [(0, "due in "), (3, "tried 3 times, again in ")])
def test_a_file_that_is_kept_for_a_while_was_not_tried(
    world: World, ino: InodeNo, attempts: int, said: str
) -> None:
    pending = PendingMove(ino, Tier.GLACIER, "it was used", attempts, 1 << 62, 1, PendingCode.USE)
    world.run(world.engine.set_pending(pending))
    lines = _lines(Placement("/a", "cold", "auto", "local", why(world, ino)))
    assert [line for line in lines if line.strip().startswith(said)]
