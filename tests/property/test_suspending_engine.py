"""Requests and moves that overlap, over an engine that suspends at each call and commits late.

No caller may take it for granted that nothing comes between two calls of the engine.
"""

from __future__ import annotations

import enum
import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memfs.errors import MemfsError, StaleInodeError
from memfs.filesystem.operations import AttributeRequest
from memfs.types import InodeNo
from tests.contract.engine.suspending import SuspendingEngine
from tests.moving import MOVES_BY_NAME
from tests.property.test_filesystem_machine import (
    INDEXES,
    QUICK,
    SEEDS,
    SET_NS,
    FilesystemMachine,
    Interruption,
    pattern,
)
from tests.property.world import CRAMPED, HASTY, ROOMY, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.config import Config
    from memfs.metadata.engine import Engine

MOVES = ["pack", "upload", "hydrate", "drop_raw", "settle", "step"]

LIFE_COUNT = 8
OVERLAP_COUNT = 25
FILE_COUNT = 3
COLD_SHARE = 0.4


class Overlap(enum.Enum):
    """What a program does to a file while the daemon works at it."""

    WRITE = enum.auto()
    HOLD = enum.auto()
    TRUNCATE = enum.auto()
    SET_MTIME = enum.auto()
    UNLINK = enum.auto()
    SYNC = enum.auto()
    ASK = enum.auto()


ONE_AT_A_TIME = {Overlap.WRITE, Overlap.TRUNCATE, Overlap.SET_MTIME}
"""What they leave depends on which comes last."""


class SuspendingMachine(FilesystemMachine):
    """The rules of the machine, and steps that overlap."""

    @initialize(config=st.sampled_from([ROOMY, CRAMPED, HASTY]), seed=SEEDS)
    def assemble(self, config: Config, seed: int) -> None:
        """As the machine, with an engine that suspends."""
        rng = random.Random(seed)

        def suspending(engine: Engine) -> SuspendingEngine:
            return SuspendingEngine(engine, rng, defers=True)

        self.world = World(self.root, config, passthrough=self.passthrough, suspending=suspending)
        self.make_directory(0, b"a")
        self.make_directory(1, b"a")
        self.write_new(0, b"b", 40_000, 7)
        self.write_new(1, b"b", 100, 8)

    def come_in(self, ino: InodeNo, request: Interruption) -> None:
        """Requests have to wait for the engine, and come in by `meanwhile`."""
        if request == Interruption.KILL:
            super().come_in(ino, request)

    @rule(
        index=INDEXES,
        move=st.sampled_from(MOVES),
        overlap=st.sampled_from(Overlap),
        cold=st.booleans(),
    )
    @precondition(lambda self: self.has_file)
    def meanwhile(self, index: int, move: str, overlap: Overlap, cold: bool) -> None:
        """A program works at a file while the daemon does."""
        if cold:
            self.demote(index)
        self.at_once(self.pick_file(index), [move], [overlap])

    @rule(index=INDEXES, overlap=st.sampled_from(Overlap), other=st.sampled_from(Overlap))
    @precondition(lambda self: self.has_file)
    def two_programs(self, index: int, overlap: Overlap, other: Overlap) -> None:
        """Two programs work at a file, and the daemon seals and reaps."""
        if overlap != other and not {overlap, other} <= ONE_AT_A_TIME:
            self.at_once(self.pick_file(index), ["settle"], [overlap, other])

    def at_once(self, ino: InodeNo, moves: Sequence[str], overlaps: Sequence[Overlap]) -> None:
        async def all_of_it() -> None:
            async with trio.open_nursery() as nursery:
                for move in moves:
                    nursery.start_soon(self.do_move, ino, move)
                for overlap in overlaps:
                    nursery.start_soon(self.overlap, ino, overlap, changing)

        changing = bool({Overlap.WRITE, Overlap.TRUNCATE} & set(overlaps))
        gone = Overlap.UNLINK in overlaps
        try:
            self.world.run(all_of_it())
        except BaseExceptionGroup as errors:
            if not gone or errors.split(StaleInodeError)[1] is not None:
                raise
        if gone:
            self.forget()

    async def do_move(self, ino: InodeNo, move: str) -> None:
        if move == "step":
            await self.world.mover.run_round()
        elif move == "settle":
            await self.world.filesystem.finish_requests()
        else:
            # It gives up where the file changes under it.
            with suppress(MemfsError):
                await MOVES_BY_NAME[move](self.world.move_parts, ino)

    async def overlap(self, ino: InodeNo, overlap: Overlap, changing: bool) -> None:
        world, content = self.world, self.content_of(ino)
        filesystem, program = world.filesystem, world.program
        match overlap:
            case Overlap.WRITE:
                file = await world.open_meanwhile(ino, os.O_WRONLY)
                await world.write_meanwhile(file, 10_000, pattern(300, 3))
                content.write(10_000, pattern(300, 3))
                world.release(file)
            case Overlap.HOLD:
                file = await world.open_meanwhile(ino, os.O_RDONLY)
                data = await world.read_meanwhile(file, max(len(content.data), 1))
                # What is being written may be read before or after.
                assert changing or bytes(content.data) == data
                world.release(file)
            case Overlap.TRUNCATE:
                if not self.is_mapped(ino):
                    content.truncate(0)
                    await filesystem.set_attributes(program, ino, AttributeRequest(size=0))
            case Overlap.SET_MTIME:
                await filesystem.set_attributes(program, ino, AttributeRequest(mtime_ns=SET_NS))
                content.mtime_ns = SET_NS
            case Overlap.UNLINK:
                for where, names in self.tree.entries.items():
                    for name in [name for name, found in names.items() if found == ino]:
                        self.tree.unlink(where, name)
                        await filesystem.unlink(InodeNo(where), name)
            case Overlap.SYNC:
                file = await world.open_meanwhile(ino, os.O_RDONLY)
                await filesystem.fsync(program, ino, False)
                world.release(file)
            case Overlap.ASK:
                for name in (b"state", b"why"):
                    await filesystem.get_xattr(program, ino, b"user.memfs." + name)
        await filesystem.commit()


class PassthroughMachine(SuspendingMachine):
    """The kernel moves the bytes."""

    passthrough: ClassVar[bool] = True


class ServedMachine(SuspendingMachine):
    """The daemon moves the bytes."""

    passthrough: ClassVar[bool] = False


def overlap_at_random(machine: SuspendingMachine, seed: int, count: int) -> None:
    """Have moves and programs overlap so many times, with little else in between."""
    rng = random.Random(seed)
    machine.assemble(rng.choice([ROOMY, CRAMPED, HASTY]), seed)
    for step in range(count):
        if len(machine.tree.files) < FILE_COUNT:
            machine.write_new(0, b"%d" % step, rng.choice([0, 100, 8192, 40_000]), step)
        index = rng.randrange(8)
        if rng.random() < COLD_SHARE:
            machine.demote(index)
        moves = rng.sample(MOVES, rng.choice([0, 1, 1, 2]))
        overlaps = rng.sample(list(Overlap), rng.choice([1, 1, 2]))
        if set(overlaps) <= ONE_AT_A_TIME:
            del overlaps[1:]
        machine.at_once(machine.pick_file(index), moves, overlaps)
        machine.all_is_as_in_the_tree()
    machine.remount()
    machine.all_is_as_in_the_tree()


@pytest.mark.parametrize("machine", [PassthroughMachine, ServedMachine])
def test_steps_that_overlap_at_one_file_leave_it_as_it_has_to_be(
    machine: type[SuspendingMachine],
) -> None:
    """With fsck at the end of each life."""
    for seed in range(LIFE_COUNT):
        life = machine()
        try:
            overlap_at_random(life, seed, OVERLAP_COUNT)
        finally:
            life.teardown()


@pytest.mark.parametrize("machine", [PassthroughMachine, ServedMachine])
def test_random_requests_moves_and_crashes_over_it_leave_the_tree_as_it_has_to_be(
    machine: type[SuspendingMachine],
) -> None:
    """What was answered is there, and nothing else is, in whatever order calls come through."""
    run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=12))
