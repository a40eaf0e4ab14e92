"""A world with weather: a store that fails by turns, and a disk that fills up.

Invariant: with calm weather and room on the disk nothing fails that a healthy machine would do.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from memfs.config import KIB
from memfs.errors import MemfsError
from memfs.metadata.sqlite.limits import Limits
from memfs.placement.prefetch.prefetcher import Prefetcher
from memfs.prediction.predictor import Predictor
from memfs.stores.directory import DirectoryStore
from tests.faulty_store import FaultScript, FaultyStore
from tests.property.world import Refusal, World

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from memfs.config import Config
    from memfs.encryption.keys import KeyRing
    from memfs.stores.store import RemoteStore
    from tests.faulty_store import FaultKind

T = TypeVar("T")

STORE_THREADS_MAX = 4
STORE_DEADLINE_S = 30.0
FAULT_DELAY_S = 0.001
BLOCK = bytes(64 * KIB)
BALLAST_NAME = "ballast"

SMALL = Limits(
    checkpoint_bytes=16 * KIB,
    journal_bytes=256 * KIB,
    reserve_bytes=64 * KIB,
    log_page_count=64,
    late_bytes=8 * KIB,
)
"""Sizes at which a life goes through every part of a checkpoint."""


class Weather(FaultScript):
    """What the store does: faults at random, calm, and shelter for those who compare."""

    def __init__(self) -> None:
        super().__init__()
        self._rough: FaultScript | None = None
        self._sheltered = False

    @property
    def is_rough(self) -> bool:
        """True while calls may fail."""
        return self._rough is not None

    def spoil(self, rng: random.Random, rates: dict[FaultKind, float]) -> None:
        """Have calls fail from now on, at these rates."""
        self._rough = FaultScript((), rng, rates)

    def clear(self) -> None:
        """Calm down."""
        self._rough = None

    def next_fault(self, operation: str, key: str) -> FaultKind | None:
        """As the weather is."""
        if self._rough is None or self._sheltered:
            return None
        kind = self._rough.next_fault(operation, key)
        if kind is not None:
            self.hit_counts[kind] += 1
        return kind

    @contextlib.contextmanager
    def shelter(self) -> Iterator[None]:
        """Have no faults in the block."""
        self._sheltered = True
        try:
            yield
        finally:
            self._sheltered = False


class Steps:
    """Counts the steps of requests that need the disk, and does something at one of them.

    Those of other threads do not count: a thread that makes raw files ahead ends with no request.
    """

    def __init__(self) -> None:
        self._left_count = 0
        self._action: Callable[[], None] | None = None

    def arm(self, count: int, action: Callable[[], None]) -> None:
        """Do something right before the step with this number, the next one is 1."""
        self._left_count, self._action = count, action

    def disarm(self) -> None:
        """Forget it."""
        self._action = None

    def _take(self) -> None:
        self._left_count -= 1
        if self._action is not None and self._left_count <= 0:
            action, self._action = self._action, None
            action()

    def watch(self, owner: object, *names: str) -> None:
        """Have the calls of an object's methods be steps."""
        for name in names:
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, call: Callable[..., T]) -> Callable[..., T]:
        def watched(*args: object, **kwargs: object) -> T:
            if threading.current_thread() is threading.main_thread():
                self._take()
            return call(*args, **kwargs)

        return watched


class ChaosWorld(World):
    """A world whose store and disk fail when they are told to.

    Args:
        root: An empty directory, or one that a killed process left.
        config: That of the file system.
        passthrough: Whether the kernel moves the bytes.
        keys: Those of encrypted forms.
        weather: What the store does.
    """

    _limits = SMALL

    def __init__(
        self, root: Path, config: Config, *, passthrough: bool, keys: KeyRing, weather: Weather
    ) -> None:
        self.weather = weather
        self.steps = Steps()
        self.is_exchanged = False
        """True while containers lie in each other's places."""
        self._ballast = root / BALLAST_NAME
        self._journals_full = False
        super().__init__(root, config, passthrough=passthrough, keys=keys)

    def _assemble(self) -> None:
        super()._assemble()
        self.is_rolled_back_late = False
        """True if a move may have failed to end its intent: the next start does it."""
        self.prefetcher = Prefetcher(self.placement, Predictor())
        # The engine's database has no name of its own that is public.
        database = self.sqlite._database
        self.steps.watch(database, "write", "commit_nowait", "sync")
        self.steps.watch(self.raw_store, "create", "open", "stat", "sync_directory")
        for journal in (database._journals.current, database._journals.spare):
            journal.append = self._bounded(journal.append)  # type: ignore[method-assign]

    def _open_store(self) -> RemoteStore:
        places = {"": "glacier"} | {name: f"store-{name}" for name in self._config.stores}
        stores: dict[str, RemoteStore] = {}
        for name, place in places.items():
            inner = DirectoryStore(self.state_dir / place, STORE_DEADLINE_S, STORE_THREADS_MAX)
            stores[name] = FaultyStore(inner, self.weather, FAULT_DELAY_S, FAULT_DELAY_S)
        return self._together(stores)

    # --- calling ---------------------------------------------------------------------------------
    @property
    def is_calm(self) -> bool:
        """True if nothing may fail."""
        return not (self.weather.is_rough or self.is_full or self.is_exchanged)

    def request(self, work: Coroutine[Any, Any, T]) -> T:
        """Make a request; a commit that fails is its failure."""
        try:
            return super().request(work)
        except MemfsError as error:
            raise Refusal(error.errno) from error

    def told(self) -> str:
        """Return what a failure may come from."""
        disk, database = os.statvfs(self.state_dir), self.sqlite._database
        return (
            f"the disk has {disk.f_bavail * disk.f_frsize} bytes and {disk.f_favail} inodes free; "
            f"the ballast {'lies' if self.is_full else 'does not lie'} on it; what the batch lost: "
            f"{database._lost}; the reserve is held: {database._tables._reserve.held}"
        )

    # --- the disk --------------------------------------------------------------------------------
    @property
    def is_full(self) -> bool:
        """True while the ballast lies on the disk."""
        return self._ballast.exists()

    def fill_disk(self, left_bytes: int, *, journals: bool = False) -> None:
        """Leave so little of the disk, which must be a small one of the world's own.

        Args:
            left_bytes: Room on the disk.
            journals: The journals have come to the end of the room that they have reserved: no
                commit finds room. A life is too short to write so much.
        """
        self._journals_full = journals
        self.is_rolled_back_late |= journals
        with self._ballast.open("ab", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(BLOCK):
                    pass
            size = file.tell()
            os.ftruncate(file.fileno(), max(0, size - left_bytes))

    def free_disk(self) -> None:
        """Give the room back."""
        self._journals_full = False
        self._ballast.unlink(missing_ok=True)

    def _bounded(self, append: Callable[..., None]) -> Callable[..., None]:
        def bounded(*args: object) -> None:
            if self._journals_full:
                raise OSError(errno.ENOSPC, "the journal has no room beyond what it has reserved")
            append(*args)

        return bounded
