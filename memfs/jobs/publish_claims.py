"""Claims: which directories have published to which URLs, so that they leave each other alone.

A directory with `user.memfs.publish` has a claim as long as it has the mark. One that a command has
published has a claim as long as it exists. Files that were published alone have one claim together
at each URL, without a root.

Invariant: an object is removed only if no claim has a file for it; it is replaced by another file
only if the file that it was made of has left its place, or a command says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import InvalidValueError, NoXattrError, StaleInodeError
from memfs.moves.publish_marks import list_roots, target_of
from memfs.moves.publish_tokens import sender_of
from memfs.policy.marks import DELETED_REMOVE, PUBLISH_DELETED_XATTR, PUBLISH_XATTR
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from memfs.metadata.engine import Engine
    from memfs.metadata.published import PublishedObject
    from memfs.metadata.records import Inode
    from memfs.moves.attempt import MoveParts

SETTING = "publish.claims"
"""Those of commands: target, inode number, and what was said last of objects without a file."""

CLAIM_COUNT_MAX = 10_000
"""Claims of commands, some 1 MB; beyond that the oldest goes that meets no other one."""

ALONE = InodeNo(0)
"""In the place of a root: files that were published by themselves."""


class Claim(NamedTuple):
    """That a directory, or a file, has published to a URL."""

    target: str
    root: InodeNo
    deleted: str = ""
    """`keep` or `remove`, as a command has said; empty: as the directory says."""
    follows: bool = False
    """It has the mark, so that its files are published by themselves."""


class _Held(NamedTuple):
    """A claim whose root is there; without a root where files were published alone."""

    claim: Claim
    root: Inode | None


async def note_claim(engine: Engine, target: str, root: InodeNo, deleted: str = "") -> None:
    """Record that a command publishes a directory, or files alone.

    Args:
        engine: Keeps it.
        target: Where to.
        root: The directory, or `ALONE`.
        deleted: As of `Claim`; empty: what was said before stays.
    """
    stored = await _load(engine)
    known = next((each for each in stored if (each.target, each.root) == (target, root)), None)
    if known is not None and deleted in ("", known.deleted):
        return
    changed = Claim(target, root, deleted)
    if known is None:
        if len(stored) >= CLAIM_COUNT_MAX:
            stored = [held.claim for held in await _held(engine, stored)]
        stored.append(changed)
        if len(stored) > CLAIM_COUNT_MAX:
            stored.remove(_least_needed(stored))
    else:
        stored[stored.index(known)] = changed
    async with engine.change():
        await engine.put_setting(SETTING, json.dumps([each[:3] for each in stored]).encode())


class Claims:
    """All claims, as of one moment.

    Args:
        parts: Engine and configuration.
        held: Those whose root is there: first those with the mark, then by age.
    """

    def __init__(self, parts: MoveParts, held: Sequence[_Held]) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._held = held

    @classmethod
    async def look(cls, parts: MoveParts, targets: Collection[str]) -> Claims:
        """Return the claims to some URLs, and to those above and below, that there are now."""
        engine, marked = parts.engine, []
        for ino in await list_roots(engine):
            with contextlib.suppress(StaleInodeError, NoXattrError, InvalidValueError):
                url = (await engine.get_xattr(ino, PUBLISH_XATTR)).decode()
                marked.append(Claim(target_of(url), ino, follows=True))
        places = {each[:2] for each in marked}
        told = [each for each in await _load(engine) if each[:2] not in places]
        near = [
            each
            for each in (*marked, *told)
            if any(_overlap(each.target, target) for target in targets)
        ]
        return cls(parts, await _held(engine, near))

    async def rival_of(
        self, known: PublishedObject | None, url: str, ino: InodeNo, root: InodeNo
    ) -> str:
        """Return the path of another file that an object belongs to; empty: there is no such.

        Args:
            known: What is recorded of the object.
            url: Its URL.
            ino: The file that is to become the object.
            root: What is published, the file itself or a directory above it.
        """
        is_ours, is_before = known is not None and known.ino == ino, True
        for held in self._covering(url):
            is_before = is_before and held.claim.root != root
            file, _ = await self._file_of(held, url, known)
            if file is None or file.ino == ino or is_ours:
                continue
            # One that follows would have its own file back there with the next look.
            is_first = held.claim.follows and is_before
            if is_first or (known is not None and known.ino == file.ino):
                return await self._path_of(file.ino)
        return ""

    async def has_file(self, known: PublishedObject) -> bool:
        """Return whether a claim has a file for an object.

        A directory of a bucket that nobody has looked into counts as if it had it.
        """
        for held in self._covering(known.url):
            file, is_unlisted = await self._file_of(held, known.url, known)
            if file is not None or is_unlisted:
                return True
        return await self._is_of_before(known)

    async def keeper_of(self, known: PublishedObject, root: Inode) -> str:
        """Return the path of another directory that keeps an object without a file.

        Args:
            known: The object.
            root: The directory for which it would be removed.
        """
        for claim, other in self._covering(known.url):
            # Records tell the URL that was published to, and not the directory.
            if other is None or other.ino == root.ino or claim.target != known.target:
                continue
            if claim.deleted:
                removes = claim.deleted == DELETED_REMOVE.decode()
            else:
                removes = await removes_deleted(self._parts, other.ino)
            if not removes:
                return await self._path_of(other.ino)
        return ""

    def _covering(self, url: str) -> list[_Held]:
        return [held for held in self._held if url.startswith(f"{held.claim.target}/")]

    async def _file_of(
        self, held: _Held, url: str, known: PublishedObject | None
    ) -> tuple[Inode | None, bool]:
        """Return the file that a claim has for an object; True: it may have one."""
        key = _key_behind(url, held.claim.target)
        if held.root is not None:
            return await _find_file(self._engine, held.root, key)
        if known is None or known.ino == ALONE:
            return None, False
        try:
            inode = await self._engine.get_inode(known.ino)
            path = await self._engine.get_path(known.ino)
        except StaleInodeError:
            return None, False
        is_there = inode.nlink > 0 and path.rpartition(b"/")[2] == key.encode()
        return (inode if is_there else None), False

    async def _path_of(self, ino: InodeNo) -> str:
        return os.fsdecode(await self._engine.get_path(ino))

    async def _is_of_before(self, known: PublishedObject) -> bool:
        """Return whether an object of before an import has its file where that was then.

        Exports tell nothing of the claims of commands.
        """
        if not (await sender_of(self._engine)).inherits(known.token):
            return False
        try:
            inode = await self._engine.get_inode(known.ino)
            path = await self._engine.get_path(known.ino)
        except StaleInodeError:
            return False
        if not inode.nlink or not path.endswith(
            f"/{_key_behind(known.url, known.target)}".encode()
        ):
            return False
        for _, root in self._held:
            above = await self._engine.get_path(root.ino) if root is not None else b""
            if above and path.startswith(above.rstrip(b"/") + b"/"):
                # It has left the place that it was published from.
                return False
        return True


async def removes_deleted(parts: MoveParts, ino: InodeNo) -> bool:
    """Return whether objects of files are removed that are gone below a directory."""
    mark = await parts.engine.effective_xattr(ino, PUBLISH_DELETED_XATTR)
    return parts.config.publish.delete if mark is None else mark == DELETED_REMOVE


async def _held(engine: Engine, claims: Sequence[Claim]) -> list[_Held]:
    """Return the claims whose root is there."""
    found = []
    for claim in claims:
        if claim.root == ALONE:
            found.append(_Held(claim, None))
            continue
        with contextlib.suppress(StaleInodeError):
            inode = await engine.get_inode(claim.root)
            if inode.nlink:
                found.append(_Held(claim, inode))
    return found


async def _load(engine: Engine) -> list[Claim]:
    stored = await engine.get_setting(SETTING)
    return [
        Claim(target, InodeNo(ino), deleted) for target, ino, deleted in json.loads(stored or b"[]")
    ]


async def _find_file(engine: Engine, root: Inode, key: str) -> tuple[Inode | None, bool]:
    """Return the regular file of a key below a root; True: it is not known whether there is one."""
    if not stat.S_ISDIR(root.mode):
        path = await engine.get_path(root.ino)
        return (root if path.rpartition(b"/")[2] == key.encode() else None), False
    now = root
    for name in key.encode().split(b"/"):
        if not stat.S_ISDIR(now.mode):
            return None, False
        below = await engine.find(now.ino, name)
        if below is None:
            listed = await engine.get_directory(now.ino)
            return None, listed is not None and not listed.listed_ns
        now = below
    return (now if stat.S_ISREG(now.mode) else None), False


def _overlap(one: str, other: str) -> bool:
    """Return whether one of two URLs is the other, or lies inside it."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _least_needed(claims: Sequence[Claim]) -> Claim:
    """Return the oldest claim that meets no other one, or else the oldest."""
    met: set[str] = set()
    above = ""
    # Behind a URL come all that lie inside it.
    for target in sorted(f"{each.target}/" for each in claims):
        if above and target.startswith(above):
            met |= {above, target}
        else:
            above = target
    return next((each for each in claims if f"{each.target}/" not in met), claims[0])


def _key_behind(url: str, target: str) -> str:
    return url.removeprefix(f"{target}/")
