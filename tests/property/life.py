"""The life of a state directory in chaos: what programs do, what the daemon does, what fails.

Invariant: a step is a name and a seed: steps can be left out of a life, and what is left still
means something.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from memfs.encryption.keys import NO_KEYS, Key, KeyRing
from memfs.errors import MemfsError, NotFoundError, StaleInodeError
from memfs.jobs.scrubbing import ScrubOutcome, scrub_file
from memfs.moves.batching import compact, upload_batch
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.faults import FAULT_POINTS
from memfs.moves.hydrating import hydrate
from memfs.moves.packing import pack
from memfs.moves.rekeying import rekey
from memfs.moves.relocating import relocate
from memfs.moves.uploading import upload
from memfs.types import FormKind, InodeNo
from tests.faulty_store import FaultKind
from tests.property.chaos_world import ChaosWorld, Weather
from tests.property.programs import Programs
from tests.property.tree import Tree
from tests.property.world import IDLE_ROUNDS_MAX, WouldWait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from memfs.config import Config
    from memfs.metadata.records import Inode

FAULT_RATES = [0.05, 0.3, 0.8]

LEFT_BYTES = [0, 0, 4096, 64 << 10]
"""What a full disk still has."""

OLD_KEY, NEW_KEY = Key(bytes(range(32)), "old"), Key(bytes(range(32, 64)), "new")

WEIGHTS = {
    # Programs.
    "write_new": 12,
    "overwrite": 8,
    "truncate": 4,
    "read": 8,
    "hold": 3,
    "release": 4,
    "sync": 2,
    "rename": 6,
    "link": 3,
    "unlink": 5,
    "make_directory": 1,
    "pin": 6,
    "set_codec": 2,
    "set_priority": 2,
    # The daemon.
    "mover_step": 10,
    "prefetch": 4,
    "hint": 3,
    "move": 8,
    "demote": 6,
    "batch": 6,
    "compact": 4,
    "scrub": 3,
    "rekey": 3,
    "rotate_keys": 1,
    "cancel": 5,
    "meddle": 6,
    "storm": 4,
    # The weather.
    "spoil": 6,
    "calm_down": 4,
    "fill_disk": 2,
    "free_disk": 3,
    "fill_in_move": 4,
    "fill_in_request": 6,
    "exchange_objects": 3,
    "exchange_packed": 3,
    # Ends.
    "crash": 2,
    "crash_midway": 3,
    "keep_copy": 2,
    "damage_metadata": 3,
    "remount": 1,
    "rest": 1,
}
"""How often each step comes."""


TWO_STORES = WEIGHTS | {"set_store": 10, "relocate": 10}
"""A life in which files also belong in another store."""


CROWDED = {
    "write_new": 6,
    "overwrite": 3,
    "release": 2,
    "demote": 1,
    "mover_step": 1,
    "fill_in_request": 10,
    "free_disk": 3,
    "crash": 1,
}
"""A life in which the disk becomes full within one request after the other."""


def draw_steps(seed: int, count: int, weights: dict[str, int] = WEIGHTS) -> list[tuple[str, int]]:
    """Return the steps of a life."""
    rng = random.Random(seed)
    names = rng.choices(list(weights), list(weights.values()), k=count)
    return [(name, rng.randrange(1 << 32)) for name in names]


class Life(Programs):
    """One state directory, what should be in it, and the steps that it goes through.

    Args:
        root: That of the world; with `tree`, as a killed process left it.
        config: That of the file system.
        passthrough: Whether the kernel moves the bytes.
        encrypted: Whether objects are.
        small_disk: True if the root is on a small disk of its own, which may be filled.
        tree: What should be there; None: an empty root directory.
    """

    def __init__(
        self,
        root: Path,
        config: Config,
        *,
        passthrough: bool,
        encrypted: bool,
        small_disk: bool = False,
        tree: Tree | None = None,
    ) -> None:
        self.weather = Weather()
        self._small_disk = small_disk
        keys = KeyRing([OLD_KEY, NEW_KEY]) if encrypted else NO_KEYS
        world = ChaosWorld(root, config, passthrough=passthrough, keys=keys, weather=self.weather)
        super().__init__(world, tree or Tree())

    def live(self, steps: list[tuple[str, int]], compare_every: int = 50) -> None:
        """Go through steps, and compare every now and then."""
        for number, (name, seed) in enumerate(steps, 1):
            self.take(name, random.Random(seed))
            if number % compare_every == 0:
                self.compare()

    def take(self, name: str, rng: random.Random) -> None:
        """Do one step."""
        getattr(self, name)(rng)

    def end(self) -> None:
        """Calm down, have everything that is left over removed, unmount, and check."""
        self.rest(random.Random(0))
        self.world.close()

    # --- the daemon ------------------------------------------------------------------------------
    async def _guarded(self, work: Awaitable[object]) -> None:
        """Do what a daemon does in its background: what fails comes again later."""
        try:
            await work
        except StaleInodeError:
            return
        except NotFoundError as error:
            raise AssertionError(f"a move met what is not there: {error}") from error
        except (MemfsError, OSError):
            return

    def _run(self, work: Awaitable[object]) -> None:
        self.world.run(self._guarded(work))

    def mover_step(self, rng: random.Random) -> None:
        for _ in range(rng.randint(1, 3)):
            self._run(self.world.mover.run_round())

    def prefetch(self, _rng: random.Random) -> None:
        self._run(self.world.prefetcher.fetch_all())

    def hint(self, rng: random.Random) -> None:
        inos = self.pick_some(rng)
        self.world.prefetcher.hint(inos, warm=rng.random() < 0.5, job=None, replace=False)
        self._run(self.world.prefetcher.fetch_all())

    def move(self, rng: random.Random) -> None:
        ino = self.pick_file(rng)
        if ino is not None:
            self._run(self._draw_move(rng, ino))

    def _draw_move(self, rng: random.Random, ino: InodeNo) -> Awaitable[object]:
        parts = self.world.move_parts
        kind = rng.choice([FormKind.PACKED, FormKind.REMOTE])
        some = [ino, *self.pick_some(rng)]
        makers: list[Callable[[], Awaitable[object]]] = [
            lambda: pack(parts, ino),
            lambda: upload(parts, ino),
            lambda: hydrate(parts, ino),
            lambda: drop_raw(parts, ino),
            lambda: drop_form(parts, ino, kind),
            lambda: upload_batch(parts, some, self._pick_store(rng)),
            lambda: rekey(parts, ino),
            lambda: scrub_file(parts, ino),
            lambda: self.world.garbage.collect(100),
            lambda: self._compact(),
            lambda: self._demote(ino),
        ]
        return rng.choice(makers)()

    async def _compact(self) -> None:
        for batch in await self.world.engine.list_sparse_batches(99, 10):
            await compact(self.world.move_parts, batch)

    async def _demote(self, ino: InodeNo) -> None:
        """All the way to the object store, if users let it."""
        parts = self.world.move_parts
        await self.world.filesystem.finish_requests()
        for move in (upload, drop_raw):
            await move(parts, ino)
        await drop_form(parts, ino, FormKind.PACKED)

    def demote(self, rng: random.Random) -> None:
        for ino in self.pick_some(rng):
            self._run(self._demote(ino))

    def batch(self, rng: random.Random) -> None:
        inos = self.pick_some(rng)
        self._run(self.world.filesystem.finish_requests())
        parts = self.world.move_parts
        self._run(upload_batch(parts, inos, self._pick_store(rng)))
        for ino in inos:
            self._run(drop_raw(self.world.move_parts, ino))

    def compact(self, _rng: random.Random) -> None:
        self._run(self._compact())

    def scrub(self, rng: random.Random) -> None:
        parts = self.world.move_parts
        for ino in self.pick_some(rng):
            self._run(scrub_file(parts, ino))

    def rekey(self, rng: random.Random) -> None:
        for ino in self.pick_some(rng):
            self._run(rekey(self.world.move_parts, ino))

    def _pick_store(self, rng: random.Random) -> str:
        names = self.world.move_parts.store_names
        return rng.choice(names) if len(names) > 1 else ""

    def relocate(self, rng: random.Random) -> None:
        for ino in self.pick_some(rng):
            self._run(relocate(self.world.move_parts, ino))

    def rotate_keys(self, rng: random.Random) -> None:
        if self.world.keys.first is not None:
            keys = [OLD_KEY, NEW_KEY]
            rng.shuffle(keys)
            self.world.move_parts.keys = KeyRing(keys)

    def cancel(self, rng: random.Random) -> None:
        """A move is cancelled when it has come to some point."""
        ino = self.pick_file(rng)
        if ino is None:
            return
        self._run(self.world.filesystem.finish_requests())
        point = rng.choice(FAULT_POINTS)

        async def cancelled() -> None:
            with trio.CancelScope() as scope:
                self.world.interruptions.arm(point, scope.cancel)
                await self._guarded(self._draw_move(rng, ino))

        self.world.run(cancelled())
        self.world.interruptions.disarm()

    def meddle(self, rng: random.Random) -> None:
        """A program does something when a move has come to some point."""
        ino = self.pick_file(rng)
        if ino is None:
            return
        self._run(self.world.filesystem.finish_requests())
        request = rng.choice(
            [self.overwrite, self.truncate, self.unlink, self.rename, self.hold, self.pin]
        )

        def come_in() -> None:
            with suppress(WouldWait):
                request(rng)

        self.world.interruptions.arm(rng.choice(FAULT_POINTS), come_in)
        self._run(self._draw_move(rng, ino))
        self.world.interruptions.disarm()

    def storm(self, rng: random.Random) -> None:
        """Many moves of few files at once."""
        inos = self.pick_some(rng)[:3]
        if not inos:
            return
        self._run(self.world.filesystem.finish_requests())

        async def rage() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    work = self._draw_move(rng, rng.choice(inos))
                    nursery.start_soon(self._guarded, work)

        self.world.run(rage())

    # --- the weather -----------------------------------------------------------------------------
    def spoil(self, rng: random.Random) -> None:
        """The store begins to fail, in a few ways."""
        rate = rng.choice(FAULT_RATES)
        kinds = rng.sample(list(FaultKind), 4)
        self.weather.spoil(rng, dict.fromkeys(kinds, rate / len(kinds)))

    def calm_down(self, _rng: random.Random) -> None:
        self.weather.clear()

    def fill_disk(self, rng: random.Random) -> None:
        if self._small_disk and not self.world.is_full:
            self.world.fill_disk(rng.choice(LEFT_BYTES))

    def free_disk(self, _rng: random.Random) -> None:
        self.world.free_disk()

    # --- ends ------------------------------------------------------------------------------------
    def crash(self, rng: random.Random) -> None:
        """SIGKILL between two steps."""
        if rng.random() < 0.3:
            # The raw file of a create whose commit did not come.
            with suppress(OSError, MemfsError):
                os.close(self.world.raw_store.create(self.world.engine.reserve_ids()[1]))
        self._go_on_from_crash()

    def crash_midway(self, rng: random.Random) -> None:
        """SIGKILL when a move has come to some point."""
        ino = self.pick_file(rng)
        if ino is None:
            return
        self._run(self.world.filesystem.finish_requests())

        def capture() -> None:
            self.world.free_disk()
            self.world.capture()

        self.world.interruptions.arm(rng.choice(FAULT_POINTS), capture)
        self._run(self._draw_move(rng, ino))
        self.world.interruptions.disarm()
        if self.world.is_captured:
            self._go_on_from_crash()

    def _go_on_from_crash(self) -> None:
        self.world.free_disk()
        with self.weather.shelter():
            self.world.crash(checked=True)
        self._find_all_again()

    def remount(self, _rng: random.Random) -> None:
        self.world.free_disk()
        with self.weather.shelter():
            self.world.remount()
        self._find_all_again()

    def _find_all_again(self) -> None:
        for ino in self.tree.nameless:
            self.tree.forget(ino)
        self.compare()

    def rest(self, rng: random.Random) -> None:
        """With calm weather and time, nothing is left over anywhere."""
        self.world.free_disk()
        self.weather.clear()
        for _ in range(len(self.world.files)):
            self.release(rng)
        self.forget()
        if self.world.is_rolled_back_late:
            self.remount(rng)
        self.world.raw_pool.close()
        self.world.run(self._scrub_all())
        for _ in range(IDLE_ROUNDS_MAX):
            self.world.step()
            usage = self.world.run(self.world.engine.usage())
            if not usage.garbage_count and self.world.recovery.done:
                break
        else:
            raise AssertionError("something is never removed")
        self.compare()
        leaks = self.world.run(self._leaks())
        assert leaks == [], f"left over: {leaks}"

    async def _scrub_all(self) -> None:
        """No form is damaged, whatever the store once said of it."""
        for ino in self.files:
            scrubbed = await scrub_file(self.world.move_parts, ino)
            assert scrubbed.outcome in (ScrubOutcome.SOUND, ScrubOutcome.SKIPPED), scrubbed

    # --- comparing -------------------------------------------------------------------------------
    def compare(self) -> None:
        """Every file is as the model has it, and the engine's sums are right."""
        with self.weather.shelter():
            self.world.run(self._compare())

    async def _compare(self) -> None:
        engine, filesystem = self.world.engine, self.world.filesystem
        for directory in self.tree.directories:
            listed = await filesystem.list_directory(InodeNo(directory), 0, 1000)
            found = {entry.name: entry.inode.ino for entry in listed}
            assert self.tree.entries[directory] == found
        for ino in self.files:
            inode = (await filesystem.get_attributes(ino)).inode
            assert self.tree.nodes[ino].nlink == inode.nlink
            expected = self.tree.contents[ino].data
            assert len(expected) == inode.size, f"inode {ino} has another size"
            assert expected == await self.world.read_all(ino), f"inode {ino} has other bytes"
        assert await engine.recount() == await engine.usage()

    async def _leaks(self) -> list[str]:
        """Return what lies around that nothing refers to."""
        world = self.world
        raws: set[int] = set()
        names: set[str] = set()
        inodes: list[Inode] = await world.engine.list_files(InodeNo(0), 10_000)
        for inode in inodes:
            raws.add(int(inode.raw))
            for form in await world.engine.list_forms(inode.blob) if inode.blob else ():
                packed = form.kind == FormKind.PACKED
                whole = form.place.key
                names.add(form.place.key if packed else whole)
        found = [f"raw {raw}" for raw in world.raw_store.iterate() if raw not in raws]
        found += [name for name in world.packed_store.iterate() if name not in names]
        found += [stat.key async for stat in world.remote.list("") if stat.key not in names]
        found += [str(path) for path in (world.state_dir / "tmp").iterdir()]
        found += [f"intent {intent}" for intent in await world.engine.list_intents()]
        return found
