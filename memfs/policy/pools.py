"""Pools: the RAM tier as pools and the rest, each with a queue of its own.

Invariant: a held file is charged to one pool; a pool's use is the sum of its unpinned files,
which its queue holds, and of its pinned ones, which no queue evicts.
"""

from __future__ import annotations

import json
import re
from itertools import chain
from typing import TYPE_CHECKING

from memfs.errors import InvalidValueError
from memfs.policy.s3fifo import S3Fifo
from memfs.policy.view import PRIORITY_DEFAULT, Capacity, PoolView

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

POOL_COUNT_MAX = 256
"""Pools of one mount. Guess: a pool is a team or a project."""

_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Pool:
    """One pool, or what no pool has reserved (the name is empty then)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.capacity = Capacity(0, 0, 0)
        self.draining = False
        self.queue = S3Fifo(0)
        self.pinned: dict[int, int] = {}
        """Bytes of held files that a pin keeps, in the order in which they were charged."""
        self.pinned_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of the files that are held for it."""
        return self.queue.used_bytes + self.pinned_bytes

    @property
    def file_count(self) -> int:
        """Files that are held for it."""
        return len(self.queue) + len(self.pinned)

    def resize(self, capacity: Capacity) -> None:
        """Set the capacity; the queue fills it to where demotion would begin, and not beyond."""
        if capacity != self.capacity:
            self.capacity = capacity
            self.queue.resize(capacity.high_bytes)

    def view(self) -> PoolView:
        """Return what a policy sees of it."""
        return PoolView(self.capacity, self.used_bytes, self.draining)


class Pools:
    """The pools of one mount, and which held file is charged to which."""

    def __init__(self) -> None:
        self.rest = Pool("")
        self.named: dict[str, Pool] = {}
        self._sizes: dict[str, int] = {}
        self._members: dict[int, Pool] = {}
        """What held files are charged to, but for those that lie in `rest`, mostly all of them."""
        self._priorities: dict[int, int] = {}
        """Those of held files with another one than the default."""

    def __contains__(self, ino: object) -> bool:
        return self._lies_in(self.rest, ino) or ino in self._members

    def __len__(self) -> int:
        return self.rest.file_count + len(self._members)

    def all(self) -> list[Pool]:
        """Return what no pool has reserved, and the pools."""
        return [self.rest, *self.named.values()]

    # --- pools -----------------------------------------------------------------------------------
    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes by pool."""
        return self._sizes

    def create(self, name: str, size_bytes: int, warm_bytes: int) -> None:
        """Reserve a part of the RAM tier.

        Args:
            name: Letters, digits, `.`, `_`, `-`; up to 63.
            size_bytes: > 0. For a pool that exists, its new size.
            warm_bytes: Capacity of the RAM tier.

        Raises:
            InvalidValueError: Not a name, no such room, or too many pools.
        """
        if _POOL_NAME.fullmatch(name) is None:
            raise InvalidValueError(
                f"pool {name!r}: a name has up to 63 letters, digits, '.', '_' and '-'"
            )
        reserved = sum(self._sizes.values()) - self._sizes.get(name, 0)
        if not 0 < size_bytes <= warm_bytes - reserved:
            raise InvalidValueError(
                f"pool {name}: {size_bytes} bytes are not between 1 and the "
                f"{max(0, warm_bytes - reserved)} bytes of the RAM tier ({warm_bytes}) that no "
                "other pool has; make it smaller, remove a pool, or raise warm.size"
            )
        if len(self._sizes) >= POOL_COUNT_MAX and name not in self._sizes:
            raise InvalidValueError(f"there are {POOL_COUNT_MAX} pools already; remove one first")
        self._sizes[name] = size_bytes
        self.named.setdefault(name, Pool(name))

    def remove(self, name: str) -> None:
        """Give a pool back; its held files are charged to the rest.

        Raises:
            InvalidValueError: There is no such pool.
        """
        pool = self.require(name)
        del self._sizes[name], self.named[name]
        for ino, member in list(self._members.items()):
            if member is pool:
                pinned_bytes = pool.pinned.get(ino)
                size = pool.queue.size_of(ino) if pinned_bytes is None else pinned_bytes
                self.charge(ino, size, self.priority(ino), "", pinned=pinned_bytes is not None)

    def require(self, name: str) -> Pool:
        """Return a pool.

        Raises:
            InvalidValueError: Nothing has that name.
        """
        pool = self.named.get(name)
        if pool is None:
            known = ", ".join(self.named) or "none yet"
            raise InvalidValueError(
                f"there is no pool {name!r} ({known}); `memfs pool create {name} --size SIZE`"
            )
        return pool

    def encode(self) -> bytes:
        """Return the definitions, to be stored."""
        return json.dumps(self._sizes).encode()

    def decode(self, stored: bytes, warm_bytes: int) -> list[str]:
        """Take the definitions of an earlier run; returns why some of them do not hold now."""
        refusals = []
        for name, size_bytes in json.loads(stored).items():
            try:
                self.create(name, size_bytes, warm_bytes)
            except InvalidValueError as error:
                refusals.append(str(error))
        return refusals

    # --- held files ------------------------------------------------------------------------------
    def pool(self, pool_name: str) -> Pool:
        """Return what files with this pool_name in force are charged to."""
        return self.named.get(pool_name, self.rest)

    def pool_of(self, ino: int) -> Pool | None:
        """Return what a held file is charged to."""
        return self.rest if self._lies_in(self.rest, ino) else self._members.get(ino)

    def priority(self, ino: int) -> int:
        """Return the priority of a held file, as it was when it was looked at last."""
        return self._priorities.get(ino, PRIORITY_DEFAULT)

    def charge(
        self, ino: int, size_bytes: int, priority: int, pool_name: str, *, pinned: bool
    ) -> None:
        """Charge a file that is held in RAM, or charge it anew."""
        pool = self.pool(pool_name)
        member = self.pool_of(ino)
        if member is not None and (member is not pool or pinned != (ino in pool.pinned)):
            self._discharge(ino, member)
        if pool is self.rest:
            self._members.pop(ino, None)
        else:
            self._members[ino] = pool
        if pinned:
            pool.pinned_bytes += size_bytes - pool.pinned.get(ino, 0)
            pool.pinned[ino] = size_bytes
        else:
            pool.queue.insert(ino, size_bytes)
        if priority != PRIORITY_DEFAULT:
            self._priorities[ino] = priority
        else:
            self._priorities.pop(ino, None)

    def leave(self, ino: int) -> None:
        """A file is not held any more; nothing happens if it was not."""
        member = self.pool_of(ino)
        if member is not None:
            self._members.pop(ino, None)
            self._discharge(ino, member)
            self._priorities.pop(ino, None)

    def forget_left(self, ino: int) -> None:
        """A file does not exist any more: forget how often it was used before it left."""
        for pool in self.all():
            pool.queue.forget_left(ino)

    def retain(self, is_held: Callable[[int], bool]) -> None:
        """Let go of files that ceased to be held without a word: removed or rewritten ones."""
        members = chain(self.rest.queue, self.rest.pinned, self._members)
        for ino in [ino for ino in members if not is_held(ino)]:
            self.leave(ino)

    def next_to_leave(self, pool: Pool, needed_bytes: int, count_max: int) -> list[int]:
        """Take the files out of a pool's queue that leave next, those of low priority first.

        They stay members: `charge` puts those back that stay after all, `leave` ends the others.
        """
        victims: list[int] = []
        levels = {self.priority(ino) for ino in self._priorities if self.pool_of(ino) is pool}
        for level in sorted(levels | {PRIORITY_DEFAULT}):
            while needed_bytes > 0 and len(victims) < count_max:
                before_bytes = pool.queue.used_bytes
                found = pool.queue.evict(1, lambda ino: self.priority(ino) <= level)  # noqa: B023 - called within the iteration
                if not found:
                    break
                victims += found
                if pool is self.rest:
                    self._members.update(dict.fromkeys(found, pool))
                needed_bytes -= before_bytes - pool.queue.used_bytes
        return victims

    @staticmethod
    def _lies_in(pool: Pool, ino: object) -> bool:
        return ino in pool.queue or ino in pool.pinned

    def _discharge(self, ino: int, member: Pool) -> None:
        pinned_bytes = member.pinned.pop(ino, None)
        if pinned_bytes is not None:
            member.pinned_bytes -= pinned_bytes
        else:
            member.queue.discharge(ino)
