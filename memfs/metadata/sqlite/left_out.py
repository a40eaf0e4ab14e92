"""Left out: whose bytes snapshots need not keep, as users have marked files and directories.

A mark counts as it was at the instant of a snapshot, and so do the place of a file and the owners
of the directories above it: what was marked later, or moved, is kept as it was shown. A file is
left out if all snapshots that show its generation leave it out.

Invariant: an answer for an instant holds for good, whatever changes afterwards; with it goes since
which snapshot it has been the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memfs.policy.marks import MARKED_SETTING, SNAPSHOT_XATTR, SNAPSHOTS_OFF
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    from memfs.metadata.records import Inode
    from memfs.metadata.sqlite.database import Database
    from memfs.metadata.sqlite.inode_cache import InodeCache

_ROOT_UID = 0

_IS_MARKED = "select 1 from setting where name = ?"

# A generation is shown from behind the last undo row of an earlier one to its own last one; up to
# now, where the live inode still has it.
_SPAN = """
    select max(?1, coalesce(
            (select max(snap) from inode_was where ino = ?1 and generation < ?2), 0)),
        case when exists (select 1 from inode where ino = ?1 and generation = ?2 and nlink > 0)
            then (select max(snap) from snapshot)
            else (select max(snap) from inode_was
                where ino = ?1 and generation = ?2 and nlink > 0) end
"""
_NEWEST = "select max(snap) from snapshot where snap > ? and snap <= ? and state = 'live'"

# Each with the newest snapshot before ?2 for which the answer may be another one.
_MARK_AT = """
    select exists (select 1 from xattr_was where ino = ?1 and name = ?3 and snap >= ?2),
        (select value from xattr_was where ino = ?1 and name = ?3 and snap >= ?2
            order by snap limit 1),
        (select value from xattr where ino = ?1 and name = ?3),
        coalesce((select max(snap) from xattr_was
            where ino = ?1 and name = ?3 and snap < ?2), 0)
"""
_OWNER_AT = """
    with owner as (select coalesce(
        (select uid from inode_was where ino = ?1 and snap >= ?2 order by snap limit 1),
        (select uid from inode where ino = ?1)) as uid)
    select uid, coalesce((select max(snap) from inode_was as w
        where w.ino = ?1 and w.snap < ?2 and w.uid <> owner.uid), 0) from owner
"""
# A name is younger than its cookie.
_PLACE_AT = """
    select parent, max(cookie, coalesce(
        (select max(snap) from dentry_was where ino = ?1 and snap < ?2), 0))
    from (
        select cookie, parent from dentry as d where ino = ?1 and cookie < ?2 and not exists (
            select 1 from dentry_was as w where w.cookie = d.cookie and w.snap >= ?2)
        union all
        select cookie, parent from dentry_was as d
            where ino = ?1 and snap >= ?2 and cookie < ?2 and not exists (
                select 1 from dentry_was as w
                where w.cookie = d.cookie and w.snap >= ?2 and w.snap < d.snap)
        order by cookie limit 1)
"""


class Answer(NamedTuple):
    """Whether something is left out of a snapshot."""

    is_off: bool
    since: int
    """It is the same for all snapshots younger than this one, up to that which was asked for."""


class LeftOut:
    """Tells whose bytes are left out.

    Args:
        database: Has the rows.
        cache: Keeps what is known of directories.
    """

    def __init__(self, database: Database, cache: InodeCache) -> None:
        self._row = database.row
        self._cache = cache

    def has(self, inode: Inode) -> bool:
        """Return whether no snapshot is to keep the bytes of a generation, which one shows."""
        if not self._may_be_marked():
            return False
        behind, until = self._row(_SPAN, (inode.ino, inode.generation)) or (0, None)
        is_shown = False
        while until and (snap := self._newest(behind, until)):
            is_off, until = self._file_at(snap, inode.ino)
            if not is_off:
                return False
            is_shown = True
        return is_shown

    def _may_be_marked(self) -> bool:
        """Return whether any inode has a mark, or had one: few states have."""
        known = self._cache.may_be_marked
        if known is None:
            known = self._row(_IS_MARKED, (MARKED_SETTING,)) is not None
            self._cache.may_be_marked = known
        return known

    def _newest(self, behind: int, until: int) -> int | None:
        row = self._row(_NEWEST, (behind, until))
        return None if row is None else row[0]

    def _file_at(self, snap: int, ino: int) -> Answer:
        mark, since = self._mark_at(snap, ino)
        if mark is not None:
            return Answer(mark == SNAPSHOTS_OFF, since)
        user, owned_since = self._row(_OWNER_AT, (ino, snap)) or (_ROOT_UID, 0)
        place = self._row(_PLACE_AT, (ino, snap))
        since = max(since, owned_since)
        if place is None:
            return Answer(False, since)
        parent, placed_since = place
        above = self._directory_at(snap, parent, user)
        return Answer(above.is_off, max(since, placed_since, above.since))

    def _directory_at(self, snap: int, ino: int, user: int) -> Answer:
        """Return whether a directory, or one above it, leaves files of a user out."""
        key = ino, user, snap
        known = self._cache.left_out.get(key)
        if known is None:
            known = self._cache.left_out[key] = self._climb(snap, ino, user)
        return Answer(*known)

    def _climb(self, snap: int, ino: int, user: int) -> Answer:
        since = 0
        while True:
            mark, marked_since = self._mark_at(snap, ino)
            owner, owned_since = self._row(_OWNER_AT, (ino, snap)) or (_ROOT_UID, 0)
            since = max(since, marked_since, owned_since)
            # As `rows.rules` has it of now.
            if mark is not None and owner in (_ROOT_UID, user):
                return Answer(mark == SNAPSHOTS_OFF, since)
            place = None if ino == ROOT_INODE else self._row(_PLACE_AT, (ino, snap))
            if place is None:
                return Answer(False, since)
            ino, placed_since = place
            since = max(since, placed_since)

    def _mark_at(self, snap: int, ino: int) -> tuple[bytes | None, int]:
        row = self._row(_MARK_AT, (ino, snap, SNAPSHOT_XATTR))
        assert row is not None, "a row of subqueries"
        has_changed, former, present, since = row
        return (former if has_changed else present), since
