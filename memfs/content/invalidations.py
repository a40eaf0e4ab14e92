"""Invalidations: what changed elsewhere reaches every cache that is keyed by inode.

A node of many learns from a log what the others have changed. It brings its engine up to date and
then says so here. While a node is alone, all changes pass through its own requests, which keep the
caches right by themselves.

Invariant: who fills a cache from an answer of the engine looks at `count` before it asks and after,
and keeps nothing if that differs: the answer may be older than what has been forgotten meanwhile.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.content.kernel_cache import KernelCache
    from memfs.types import InodeNo


class Aspect(enum.Flag):
    """What of an inode has changed."""

    ATTRIBUTES = enum.auto()
    """Mode, owner, times, links."""
    CONTENT = enum.auto()
    """Bytes, and with them size and times: it has another generation."""
    XATTRS = enum.auto()
    """Users' xattrs, ACLs, capabilities."""
    POLICY = enum.auto()
    """Pins, codecs and marks: its own, and so those that inodes below it inherit."""


class _Cache(NamedTuple):
    """One that has registered."""

    aspects: int
    """The bits of an `Aspect`, whose own operators take ten times as long."""
    forget: Callable[[InodeNo], object]
    forget_all: Callable[[], object]


class Invalidations:
    """Tells caches what to forget. One thread calls everything; nothing here waits.

    Args:
        kernel_cache: What the kernel of the mount has cached.
    """

    def __init__(self, kernel_cache: KernelCache) -> None:
        self.kernel_cache = kernel_cache
        self._caches: list[_Cache] = []
        self.count = 0
        """Changes so far."""
        inode = Aspect.ATTRIBUTES | Aspect.XATTRS
        self.register(inode, kernel_cache.forget_attributes, kernel_cache.forget_all)
        self.register(Aspect.CONTENT, kernel_cache.forget_content, lambda: None)

    def register(
        self,
        aspects: Aspect,
        forget: Callable[[InodeNo], object],
        forget_all: Callable[[], object],
    ) -> None:
        """Have a cache told of changes.

        Args:
            aspects: What it depends on.
            forget: Drops what it has of one inode, of which one of the aspects has changed.
            forget_all: Drops what it has of all inodes.
        """
        self._caches.append(_Cache(aspects.value, forget, forget_all))

    def note_inode(self, ino: InodeNo, aspects: Aspect) -> None:
        """An inode was changed elsewhere, and the engine knows it as it is now."""
        self.count += 1
        wanted: int = aspects.value
        for cache in self._caches:
            if cache.aspects & wanted:
                cache.forget(ino)

    def note_new(self, parent: InodeNo, name: bytes) -> None:
        """A name leads to an inode that was made with it elsewhere: nobody keeps anything of it."""
        self.kernel_cache.forget_name(parent, name)
        self.note_inode(parent, Aspect.ATTRIBUTES)

    def note_name(
        self, parent: InodeNo, name: bytes, ino: InodeNo, *, inherits: bool = True
    ) -> None:
        """A name leads to another inode than before, by a change elsewhere.

        Args:
            name: What was changed.
            ino: What the name leads to.
            inherits: The inode may have got another pin by it, from another directory.
        """
        self.note_new(parent, name)
        self.note_inode(ino, Aspect.ATTRIBUTES | (Aspect.POLICY if inherits else Aspect(0)))

    def note_removed(
        self, parent: InodeNo, name: bytes, ino: InodeNo, *, last: bool, inherits: bool = True
    ) -> None:
        """A name was removed elsewhere.

        Args:
            name: What was removed.
            ino: What the name led to.
            last: The inode has no other name.
            inherits: As for `note_name`; what has no name has no place to be brought to.
        """
        if last:
            self.kernel_cache.forget_removed(parent, name, ino)
        else:
            self.kernel_cache.forget_name(parent, name)
        self.note_inode(parent, Aspect.ATTRIBUTES)
        policy = Aspect.POLICY if inherits and not last else Aspect(0)
        self.note_inode(ino, Aspect.ATTRIBUTES | policy)

    def note_all(self) -> None:
        """Anything may have changed: what others did is not known."""
        self.count += 1
        for cache in self._caches:
            cache.forget_all()
