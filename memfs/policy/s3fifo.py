"""S3-FIFO by bytes: a small queue on trial, a main queue for what proved itself, and ghosts.

Invariant: a key is in one of the two queues or a ghost or unknown; `used_bytes` is the sum of the
sizes in both queues; each operation is O(1), apart from keys that eviction passes over
and from the end of a loop.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. Added here:
sizes, a freeze of admission during loops (`loops`), and for disks an admission that asks for proof.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from memfs.fifo import Fifo
from memfs.policy.ghosts import USES_BITS, USES_MASK, USES_MAX, Ghosts
from memfs.policy.loops import LoopDetector
from memfs.policy.queues import always_evictable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SMALL_SHARE = 0.1
"""That of the capacity, for keys on trial; the paper's value."""

PROVEN_USES = 2
"""Uses after which a key belongs into the main queue."""

GHOST_COUNT_MAX = 65_536
"""Keys remembered after they left; some 10 MB at most."""


class QueueEntry(NamedTuple):
    """One key of a queue, as it is stored between two runs of a daemon."""

    key: int
    size_bytes: int
    uses: int
    """0 to 3 since it was last passed over."""
    main: bool
    """It proved itself."""


class S3Fifo:
    """An `EvictionQueue`.

    A key takes some 150 bytes of memory in a queue or as a ghost (CPython 3.11), whatever its size.
    What a file's knowledge is: its size and two bits of use.

    Args:
        capacity_bytes: What the tier holds.
        small_share: That of it, for keys on trial; in (0, 1).
        proof: Let a key push others out only when it was used `PROVEN_USES` times within the
            ghosts' memory: for tiers to which writing costs wear and time.
    """

    def __init__(
        self, capacity_bytes: int, small_share: float = SMALL_SHARE, *, proof: bool = False
    ) -> None:
        self._small_share = small_share
        self._proof = proof
        self._small: Fifo[int, int] = Fifo()
        """Size and uses in one number: half the memory of a tuple."""
        self._main: Fifo[int, int] = Fifo()
        self._small_bytes = 0
        self._main_bytes = 0
        self._capacity_bytes = capacity_bytes
        self._ghosts = Ghosts(capacity_bytes, GHOST_COUNT_MAX)
        self._loops = LoopDetector(capacity_bytes)

    # --- questions -------------------------------------------------------------------------------
    @property
    def used_bytes(self) -> int:
        """The sizes of all keys in the queue, together."""
        return self._small_bytes + self._main_bytes

    @property
    def capacity_bytes(self) -> int:
        """What the tier holds."""
        return self._capacity_bytes

    @property
    def frozen(self) -> bool:
        """A loop larger than the tier is being read: what is held stays, and nothing comes in."""
        return self._loops.looping

    def __contains__(self, key: object) -> bool:
        return key in self._small or key in self._main

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def __iter__(self) -> Iterator[int]:
        return chain(self._small, self._main)

    def entries(self) -> Iterator[QueueEntry]:
        """Yield all keys, about in the order in which they leave if they are not used again."""
        for main, queue in ((False, self._small), (True, self._main)):
            for key, packed in queue.items():
                yield QueueEntry(key, packed >> USES_BITS, packed & USES_MASK, main)

    def uses(self, key: int) -> int:
        """Return how often a key was used, if that is known: 0 to 3."""
        packed = self._small.get(key, self._main.get(key))
        return self._ghosts.uses(key) if packed is None else packed & USES_MASK

    def size_of(self, key: int) -> int:
        """Return the bytes of a key; 0 if it is not in."""
        return self._small.get(key, self._main.get(key, 0)) >> USES_BITS

    def bytes_before(self, key: int) -> int | None:
        """Return the bytes that leave before a key if nothing is used again; None if it is not in.

        O(n): for a user's question.
        """
        before_bytes = 0
        for entry in self.entries():
            if entry.key == key:
                return before_bytes
            before_bytes += entry.size_bytes
        return None

    # --- changes ---------------------------------------------------------------------------------
    def access(self, key: int, size_bytes: int) -> bool:
        """Count one use of a key; True if it is in the queue. See `EvictionQueue`."""
        hit = self._count(self._small, key) or self._count(self._main, key)
        frozen = self.frozen
        self._loops.access(key, size_bytes, hit=hit)
        if frozen and not self.frozen and self._loops.outdated:
            self._put_all_on_trial()
        if not hit:
            self._ghosts.note(key, size_bytes, self._ghosts.uses(key) + 1)
        return hit

    def admits(self, key: int, size_bytes: int) -> bool:
        """Return True if a key that was just missed is worth a place. See `EvictionQueue`."""
        if self.used_bytes + size_bytes <= self._capacity_bytes:
            return True
        if size_bytes > self._capacity_bytes or self.frozen:
            return False
        return not self._proof or self.uses(key) >= PROVEN_USES

    def insert(self, key: int, size_bytes: int) -> None:
        """Put a key in: on trial, or into the main queue if it was used before it left."""
        for queue in (self._small, self._main):
            if key in queue:
                uses = queue[key] & USES_MASK
                self._account(queue, size_bytes - (queue[key] >> USES_BITS))
                queue[key] = size_bytes << USES_BITS | uses
                return
        proven = self._ghosts.forget(key) >= PROVEN_USES
        self._append(self._main if proven else self._small, key, size_bytes, 0)

    def remove(self, key: int) -> None:
        """Take a key out, and forget it."""
        self.discharge(key)
        self._ghosts.forget(key)

    def discharge(self, key: int) -> None:
        """Take a key out, but leave what is known of it as a ghost."""
        for queue in (self._small, self._main):
            packed = queue.pop(key, None)
            if packed is not None:
                self._account(queue, -(packed >> USES_BITS))

    def forget_left(self, key: int) -> None:
        """Forget what is known of a key that is not in."""
        self._ghosts.forget(key)

    def resize(self, capacity_bytes: int) -> None:
        """Set the capacity; this evicts nothing."""
        self._capacity_bytes = capacity_bytes
        self._ghosts.capacity_bytes = capacity_bytes
        self._loops.capacity_bytes = capacity_bytes

    def restore(self, entries: Iterable[QueueEntry]) -> None:
        """Put keys in that `entries` gave to an earlier run, in that order."""
        for entry in entries:
            if entry.key not in self:
                self._append(
                    self._main if entry.main else self._small,
                    entry.key,
                    entry.size_bytes,
                    min(entry.uses, USES_MAX),
                )

    def remember(self, entries: Iterable[QueueEntry]) -> None:
        """Note keys that were in an earlier run, so that their next use brings them to the main."""
        for entry in entries:
            if entry.key not in self:
                self._ghosts.note(entry.key, entry.size_bytes, 1 + entry.main)

    def evict(
        self, needed_bytes: int, evictable: Callable[[int], bool] = always_evictable
    ) -> list[int]:
        """Take out keys of at least `needed_bytes` together. See `EvictionQueue`."""
        victims: list[int] = []
        freed_bytes = 0
        passed_small: set[int] = set()
        passed_main: set[int] = set()
        while freed_bytes < needed_bytes:
            small_left = len(passed_small) < len(self._small)
            main_left = len(passed_main) < len(self._main)
            small_due = self._small_bytes > self._small_share * self._capacity_bytes
            if small_left and (small_due or not main_left):
                freed_bytes += self._step_small(victims, passed_small, evictable)
            elif main_left:
                freed_bytes += self._step_main(victims, passed_main, evictable)
            else:
                break
        return victims

    def _step_small(
        self, victims: list[int], passed: set[int], evictable: Callable[[int], bool]
    ) -> int:
        """Look at the oldest key on trial; returns the bytes freed."""
        key, packed = self._small.take_oldest()
        if key in passed or not evictable(key):
            passed.add(key)
            self._small[key] = packed
            return 0
        size_bytes = packed >> USES_BITS
        self._small_bytes -= size_bytes
        if packed & USES_MASK >= PROVEN_USES:
            self._append(self._main, key, size_bytes, 0)
            return 0
        return self._leave(key, size_bytes, victims)

    def _step_main(
        self, victims: list[int], passed: set[int], evictable: Callable[[int], bool]
    ) -> int:
        """Look at the oldest proven key; returns the bytes freed."""
        key, packed = self._main.take_oldest()
        if key in passed or not evictable(key):
            passed.add(key)
            self._main[key] = packed
            return 0
        if packed & USES_MASK:
            self._main[key] = packed - 1
            return 0
        size_bytes = packed >> USES_BITS
        self._main_bytes -= size_bytes
        return self._leave(key, size_bytes, victims)

    def _leave(self, key: int, size_bytes: int, victims: list[int]) -> int:
        self._ghosts.note(key, size_bytes)
        victims.append(key)
        return size_bytes

    def _put_all_on_trial(self) -> None:
        """A loop has ended: that its keys were read in every round says nothing any more."""
        keys = [*self._main.items(), *self._small.items()]
        self._main.clear()
        self._small = Fifo()
        self._small.update((key, packed & ~USES_MASK) for key, packed in keys)
        self._small_bytes += self._main_bytes
        self._main_bytes = 0

    def _append(self, queue: Fifo[int, int], key: int, size_bytes: int, uses: int) -> None:
        queue[key] = size_bytes << USES_BITS | uses
        self._account(queue, size_bytes)

    def _account(self, queue: Fifo[int, int], size_bytes: int) -> None:
        if queue is self._main:
            self._main_bytes += size_bytes
        else:
            self._small_bytes += size_bytes

    @staticmethod
    def _count(queue: Fifo[int, int], key: int) -> bool:
        packed = queue.get(key)
        if packed is None:
            return False
        if packed & USES_MASK < USES_MAX:
            queue[key] = packed + 1
        return True
