"""Scrub: every form of a file is read and checked, and a damaged one replaced from a sound one.

Invariant: a form is given up only after another one of the same content was read whole and found
sound, in the same look at the file; where all are damaged, nothing is thrown away.
"""

from __future__ import annotations

import enum
import errno as codes
import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from memfs.errors import (
    CodecMissingError,
    CorruptDataError,
    EncryptionKeyError,
    MemfsError,
    NotFoundError,
    NotSupportedError,
    ObjectArchivedError,
    ObjectMissingError,
    OtherContentError,
    StaleInodeError,
    StoreError,
    UsageError,
)
from memfs.jobs.kept_names import name_keepers
from memfs.metadata.quarantine import quarantine, release
from memfs.metadata.records import InodeFlags
from memfs.moves.attempt import configured_store
from memfs.moves.coding import unlock
from memfs.moves.damage import record_damage, replace_damaged
from memfs.moves.dropping import drop_form, drop_raw
from memfs.moves.hydrating import hydrate
from memfs.moves.keeping import inode_of
from memfs.moves.outcome import MoveOutcome
from memfs.moves.packing import pack
from memfs.moves.sharing import SHARERS_MAX
from memfs.moves.uploading import upload
from memfs.stores.contents import open_content
from memfs.stores.digesting import digest_file, read_file
from memfs.stores.disk import disk_errors
from memfs.stores.reading import PackedFile
from memfs.stores.restoring import without_restores
from memfs.types import BlobId, FormKind, Generation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from pathlib import Path

    from memfs.metadata.records import Blob, Form, Inode, KeptContent
    from memfs.moves.attempt import MoveParts
    from memfs.types import InodeNo, RawId

UNHURRIED = 1 << 62
"""A rate that holds nothing back."""

_DAMAGE = (CorruptDataError, ObjectMissingError)
"""What speaks against a form, and not against the way to it."""


_SHORTAGES = (codes.EMFILE, codes.ENFILE, codes.ENOMEM)
"""What keeps a sound file from being read."""


class ScrubOutcome(enum.StrEnum):
    """What came of looking at a file."""

    SOUND = "sound"
    """All its forms are as they should be."""
    SHARED = "shared"
    """All its forms are those of a file before it, and were checked with that."""
    SKIPPED = "skipped"
    """It is being written, is gone, or changed meanwhile."""
    REPAIRED = "repaired"
    """A damaged form was given up; another one is sound."""
    WAITING = "waiting"
    """A damaged form will be given up when no program has the file open."""
    DIFFERS = "differs"
    """Its source has another object by now, or lacks it; nothing was changed here."""
    QUARANTINED = "quarantined"
    """No form is sound: what is readable of it is still served, and nothing is thrown away."""


class FormCheck(NamedTuple):
    """One form's check."""

    kind: FormKind
    read_bytes: int
    damage: str | None
    """None: sound."""
    unchecked: str | None = None
    """Why it could not be checked; None: it was."""
    archived: bool = False
    """It was not checked because its object is archived: to read it would cost a restore."""
    foreign: bool = False
    """It is damaged since it holds another content, so that nothing of it may be served."""


class Scrubbed(NamedTuple):
    """One file's check."""

    outcome: ScrubOutcome
    checks: tuple[FormCheck, ...] = ()
    detail: str = ""
    """One sentence, where something is wrong."""
    needed_by: tuple[str, ...] = ()
    """Others that share a damaged form, as a user calls them; not more than are looked at."""

    @property
    def read_bytes(self) -> int:
        """Bytes read from disk and store."""
        return sum(check.read_bytes for check in self.checks)


class ScrubPace:
    """Holds the reading of one file's local forms back to a rate.

    Args:
        rate: Bytes a second, > 0.
    """

    def __init__(self, rate: int = UNHURRIED) -> None:
        self._rate = rate
        self._began_s = 0.0
        self._earlier_bytes = 0
        self.form_bytes = 0
        """Read of the form that is being read."""

    @property
    def read_bytes(self) -> int:
        """Bytes read of all forms so far."""
        return self._earlier_bytes + self.form_bytes

    def begin(self) -> None:
        """The next form is to be read."""
        self._earlier_bytes, self.form_bytes = self.read_bytes, 0
        self._began_s = time.monotonic()

    def wait(self, path: Path, done_bytes: int) -> None:
        """Return when so many bytes of a form may have been read; runs in a worker thread.

        Raises:
            ObjectMissingError: It was removed meanwhile: nobody needs to know what is in it.
            trio.Cancelled: The scrub was stopped.
        """
        self.form_bytes = done_bytes
        while True:
            trio.from_thread.check_cancelled()
            if not path.exists():
                raise ObjectMissingError(f"{path}: removed while it was read")
            ahead_s = done_bytes / self._rate - (time.monotonic() - self._began_s)
            if ahead_s <= 0:
                return
            # In short pieces, so that stopping takes no longer.
            time.sleep(min(ahead_s, 0.2))


async def scrub_file(parts: MoveParts, ino: InodeNo, pace: ScrubPace | None = None) -> Scrubbed:
    """Check all forms of one file, and repair what can be repaired.

    A raw file that was never packed nor uploaded has no digest yet: it is read, so that a disk
    that has lost it is found out, and believed.

    Args:
        pace: That of reading from the local disk; tells how far it is. None: as fast as can be.
    """
    pace = pace or ScrubPace()
    try:
        inode = await parts.engine.get_inode(ino)
        if not stat.S_ISREG(inode.mode) or inode.flags & InodeFlags.UNSEALED or not inode.nlink:
            return Scrubbed(ScrubOutcome.SKIPPED)
        if damage := parts.sealer.damage_of(inode):
            return await _replace_raw(parts, inode, damage)
        if await parts.sealer.adopt_if_changed(inode):
            # Written before power was lost: what it was is no measure of what it is.
            return Scrubbed(ScrubOutcome.SKIPPED)
        forms = await parts.engine.list_forms(inode.blob) if inode.blob else []
        sharers = await _list_sharers(parts, inode)
        checks: tuple[FormCheck, ...] = ()
        if forms and sharers and sharers[0].ino < inode.ino:
            # The first of them has the forms checked; they are needed for what is damaged here.
            if not inode.raw:
                return Scrubbed(ScrubOutcome.SHARED)
            checks = await _check_forms(parts, inode, [], pace)
            if not any(check.damage for check in checks):
                return Scrubbed(ScrubOutcome.SOUND, checks)
            checks = ()
        checks = await _check_forms(parts, inode, forms, pace)
        differs, unchecked = await _ask_source(parts, inode)
        checks += unchecked
        if not await _is_as_before(parts, inode, forms):
            return Scrubbed(ScrubOutcome.SKIPPED, checks)
        if not any(check.damage for check in checks):
            if differs:
                return Scrubbed(ScrubOutcome.DIFFERS, checks, differs)
            return Scrubbed(ScrubOutcome.SOUND, checks)
        try:
            scrubbed = await _repair(parts, inode, forms, checks, sharers)
            return await _name_sharers(parts, inode, scrubbed, sharers)
        except StoreError as error:
            # The store was read a moment ago and does not answer now: nothing is given up for it.
            return Scrubbed(ScrubOutcome.WAITING, checks, str(error))
        except CorruptDataError as error:
            # Its raw file was changed behind the engine's back: nobody can say which is right.
            return Scrubbed(ScrubOutcome.QUARANTINED, checks, str(error))
    except (StaleInodeError, NotFoundError):
        return Scrubbed(ScrubOutcome.SKIPPED)


async def _ask_source(parts: MoveParts, inode: Inode) -> tuple[str, tuple[FormCheck, ...]]:
    """Ask the source of an adopted file for its object, by size and ETag; its bytes are not read.

    Returns:
        In what it differs, empty if in nothing; and a check that could not be made.
    """
    known = await parts.engine.get_object(inode.ino)
    if parts.sources is None or known is None or known.generation != inode.generation:
        return "", ()
    try:
        differs = await parts.sources.difference_of(known)
    except (StoreError, UsageError) as error:
        return "", (FormCheck(FormKind.REMOTE, 0, None, unchecked=str(error)),)
    if differs is None:
        return "", ()
    return f"{differs}; memfs adopt --refresh follows the source", ()


async def scrub_kept(
    parts: MoveParts, kept: KeptContent, pace: ScrubPace | None = None
) -> Scrubbed:
    """Check all that has bytes which only snapshots show; a bad form goes where a sound one is.

    A raw file of theirs has no digest, as that of a file which was never packed nor uploaded.

    Args:
        kept: As the engine lists it.
        pace: As `scrub_file`.
    """
    engine = parts.engine
    if kept.blob and kept not in await engine.list_kept_blobs(BlobId(kept.blob - 1), 1):
        # A file has the blob too, or an earlier row: its forms were checked with that.
        return Scrubbed(ScrubOutcome.SHARED)
    forms = await engine.list_forms(kept.blob) if kept.blob else []
    inode = inode_of(kept)
    checks = await _check_forms(parts, inode, forms, pace or ScrubPace())
    if kept.raw and not kept.open and not checks[0].damage and not checks[0].unchecked:
        size = (await trio.to_thread.run_sync(parts.raw_store.stat, kept.raw)).st_size
        if size != kept.size:
            damage = f"raw file {kept.raw} has {size} bytes, not {kept.size}"
            checks = (checks[0]._replace(damage=damage), *checks[1:])
    reasons = "; ".join(f"{check.kind}: {check.damage}" for check in checks if check.damage)
    async with engine.change():
        # Deletion of the snapshots, or a compaction, may have come between.
        before = (kept.ino, Generation(kept.generation - 1))
        if kept not in await engine.list_kept(before, 1) or forms != (
            await engine.list_forms(kept.blob) if kept.blob else []
        ):
            return Scrubbed(ScrubOutcome.SKIPPED, checks)
        if not reasons:
            return Scrubbed(ScrubOutcome.SOUND, checks)
        sound = [check.kind for check in checks if not check.damage and not check.unchecked]
        if not sound:
            detail = f"no form of it is sound: {reasons}; delete the snapshots that show it"
            names = await name_keepers(engine, kept.blob, SHARERS_MAX) if kept.blob else ()
            return Scrubbed(ScrubOutcome.QUARANTINED, checks, detail, tuple(names[1:]))
        for check in checks:
            if check.damage:
                await engine.drop_form(kept.ino, kept.generation, check.kind)
    detail = f"{reasons}; given up for its {sound[0]} form"
    return Scrubbed(ScrubOutcome.REPAIRED, checks, detail)


async def _replace_raw(parts: MoveParts, inode: Inode, damage: str) -> Scrubbed:
    """Have another form take the place of a raw file that was changed while no daemon ran."""
    checks = (FormCheck(FormKind.RAW, 0, damage),)
    try:
        await replace_damaged(parts, inode.ino)
        await hydrate(parts, inode.ino)
    except CorruptDataError as error:
        await record_damage(parts, inode.ino, str(error), logged=False)
        return Scrubbed(ScrubOutcome.QUARANTINED, checks, str(error))
    except MemfsError as error:
        detail = f"{damage}; another form is read for now: {error}"
        return Scrubbed(ScrubOutcome.REPAIRED, checks, detail)
    return Scrubbed(ScrubOutcome.REPAIRED, checks, f"{damage}; made again from another form")


async def _is_as_before(parts: MoveParts, inode: Inode, forms: Sequence[Form]) -> bool:
    """Return whether a file is what the checks looked at.

    Its forms are compared as well: a compaction replaces one without a change of the inode, and
    what was found of the former one says nothing of the new one.
    """
    now = await parts.engine.get_inode(inode.ino)
    return now == inode and (not inode.blob or await parts.engine.list_forms(inode.blob) == forms)


async def _check_forms(
    parts: MoveParts, inode: Inode, forms: Sequence[Form], pace: ScrubPace
) -> tuple[FormCheck, ...]:
    blob = await parts.engine.get_blob(inode.blob) if inode.blob else None
    checks = []
    if inode.raw:
        checks.append(await _check(FormKind.RAW, pace, _check_raw(parts, inode, blob, pace)))
    for form in forms:
        assert blob is not None
        check = _check_packed if form.kind == FormKind.PACKED else _check_remote
        found = await _check(form.kind, pace, check(parts, form, blob, pace))
        checks.append(found)
        if found.foreign and found.damage:
            await quarantine(parts.engine, form, found.damage)
        elif not found.damage and not found.unchecked:
            await release(parts.engine, form)
    return tuple(checks)


async def _check(kind: FormKind, pace: ScrubPace, check: Awaitable[None]) -> FormCheck:
    pace.begin()
    try:
        await check
    except _DAMAGE as error:
        foreign = isinstance(error, OtherContentError)
        return FormCheck(kind, pace.form_bytes, str(error), foreign=foreign)
    except (StoreError, NotSupportedError, EncryptionKeyError, CodecMissingError) as error:
        if kind == FormKind.RAW and not _is_shortage(error):
            # Its disk cannot read it: what the store of objects calls a pause is damage here.
            return FormCheck(kind, 0, str(error))
        archived = isinstance(error, ObjectArchivedError)
        return FormCheck(kind, 0, None, unchecked=str(error), archived=archived)
    return FormCheck(kind, pace.form_bytes, None)


async def _list_sharers(parts: MoveParts, inode: Inode) -> list[Inode]:
    """Return the other files with the blob of one that have names, in order of number."""
    listed = await parts.engine.list_sharers(inode.blob, SHARERS_MAX) if inode.blob else []
    return [other for other in listed if other.ino != inode.ino and other.nlink]


async def _name_sharers(
    parts: MoveParts, inode: Inode, scrubbed: Scrubbed, sharers: Sequence[Inode]
) -> Scrubbed:
    """Name all that share a damaged form, and have `why` tell what cannot be read."""
    if all(check.kind == FormKind.RAW for check in scrubbed.checks if check.damage):
        return scrubbed
    names = []
    for other in sharers:
        path = (await parts.engine.get_path(other.ino)).decode("utf-8", "backslashreplace")
        names.append(path)
        if scrubbed.outcome is ScrubOutcome.QUARANTINED and not other.raw:
            await record_damage(parts, other.ino, scrubbed.detail, logged=False)
    names += await name_keepers(parts.engine, inode.blob, SHARERS_MAX)
    return scrubbed._replace(needed_by=tuple(names))


def _is_shortage(error: MemfsError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _SHORTAGES


async def _check_raw(parts: MoveParts, inode: Inode, blob: Blob | None, pace: ScrubPace) -> None:
    path = parts.raw_store.path(inode.raw)
    cached = parts.residency.ram_bytes(path)
    wait = partial(pace.wait, path)
    digest = None
    # It looks by itself whether the file is there still.
    with parts.raw_store.reading(inode.raw):
        if blob is None:
            await trio.to_thread.run_sync(read_file, path, wait)
        else:
            digest = await trio.to_thread.run_sync(digest_file, path, wait, parts.zeros)
    if not cached:
        await trio.to_thread.run_sync(_let_go_of_pages, parts, inode.raw)
    if blob is not None and digest != blob.digest:
        raise CorruptDataError(f"raw file {inode.raw} differs from the digest of its content")


def _let_go_of_pages(parts: MoveParts, raw: RawId) -> None:
    """Leave the page cache as it was: a scrub must not push out what programs use."""
    fd = parts.raw_store.open(raw, os.O_RDONLY)
    try:
        with disk_errors(str(parts.raw_store.path(raw))):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


async def _check_packed(parts: MoveParts, form: Form, blob: Blob, pace: ScrubPace) -> None:
    path = parts.packed_store.path(form.place.key)

    def wait(content_bytes: int) -> None:
        pace.wait(path, form.stored_bytes * content_bytes // max(1, blob.size))

    def verify() -> None:
        with PackedFile.open(path, unlock=unlock(parts, blob, form.coding)) as packed:
            packed.verify(wait, parts.zeros)

    await trio.to_thread.run_sync(verify)


async def _check_remote(parts: MoveParts, form: Form, blob: Blob, pace: ScrubPace) -> None:
    def advance(content_bytes: int) -> None:
        pace.form_bytes = form.stored_bytes * content_bytes // max(1, blob.size)

    remote = configured_store(parts)
    with without_restores():
        reader = await open_content(remote, form, unlock(parts, blob, form.coding))
        await reader.verify(advance, parts.zeros)
        pace.form_bytes = form.stored_bytes


async def _repair(
    parts: MoveParts,
    inode: Inode,
    forms: list[Form],
    checks: tuple[FormCheck, ...],
    sharers: Sequence[Inode],
) -> Scrubbed:
    damaged = [check for check in checks if check.damage]
    reasons = "; ".join(f"{check.kind}: {check.damage}" for check in damaged)
    sound = [check.kind for check in checks if not check.damage and not check.unchecked]
    remade: set[FormKind] = set()
    detail = f"{reasons}; given up for its {sound[0]} form" if sound else ""
    if not sound:
        for check in damaged:
            if await _remake(parts, _form_of(forms, check.kind), sharers):
                remade.add(check.kind)
        source = "a file that shares its content"
        if not remade and (mended := await _mend(parts, inode)) is not None:
            source = "its published object"
            for check in damaged:
                if await _remake(parts, _form_of(forms, check.kind), [mended]):
                    remade.add(check.kind)
        if not remade:
            return await _quarantine(parts, inode, checks, reasons)
        forms = await parts.engine.list_forms(inode.blob)
        detail = f"{reasons}; made anew from {source}"
    for check in damaged:
        if check.kind in remade:
            continue
        if check.kind == FormKind.RAW:
            outcome = (await drop_raw(parts, inode.ino, forms)).outcome
        else:
            outcome = (await drop_form(parts, inode.ino, check.kind, forms)).outcome
            # Clones and snapshots have no other form: the sound raw file gives them a new one.
            if outcome == MoveOutcome.SUPERSEDED and FormKind.RAW in sound:
                if await _remake(parts, _form_of(forms, check.kind), [inode]):
                    outcome = MoveOutcome.DONE
                    detail = f"{reasons}; made anew from its raw form, for all that share it"
                forms = await parts.engine.list_forms(inode.blob)
            else:
                forms = [form for form in forms if form.kind != check.kind]
        if outcome == MoveOutcome.BUSY:
            detail = f"{reasons}; a program has the file open, and it is repaired after that"
            return Scrubbed(ScrubOutcome.WAITING, checks, detail)
        if outcome == MoveOutcome.SUPERSEDED:
            return Scrubbed(ScrubOutcome.SKIPPED, checks)
    if any(check.kind == FormKind.RAW for check in damaged):
        try:
            await hydrate(parts, inode.ino)
        except (MemfsError, OSError) as error:
            detail += f"; it is read from there for now: {error}"
    return Scrubbed(ScrubOutcome.REPAIRED, checks, detail)


async def _mend(parts: MoveParts, inode: Inode) -> Inode | None:
    """Return a file once it was fetched from its published object; None: that cannot be done."""
    if inode.raw or not await parts.engine.list_published_of(inode.ino):
        return None
    try:
        return await hydrate(parts, inode.ino)
    except (MemfsError, OSError):
        return None


def _form_of(forms: Sequence[Form], kind: FormKind) -> Form | None:
    return next((form for form in forms if form.kind == kind), None)


async def _remake(parts: MoveParts, former: Form | None, sources: Sequence[Inode]) -> bool:
    """Have a form that is damaged replaced from the raw file of one of those that share it.

    Args:
        parts: What moves work with.
        former: As it was looked at; None: a raw file, which has no form to be replaced.
        sources: Files with its blob.

    Raises:
        StoreError: The store refused or cannot be reached.
    """
    if former is None or not former.owned:
        return False
    move = pack if former.kind == FormKind.PACKED else upload
    for source in sources:
        if not source.raw or parts.sealer.damage_of(source):
            continue
        try:
            # Both compare what they read with the digest of the blob.
            result = await move(parts, source.ino, replacing=former)
        except StoreError:
            raise
        except MemfsError:
            continue
        if result.outcome is MoveOutcome.DONE:
            return True
    return False


async def _quarantine(
    parts: MoveParts, inode: Inode, checks: tuple[FormCheck, ...], reasons: str
) -> Scrubbed:
    """Keep everything, and see to it that no wrong byte is served.

    Frames carry checksums, a raw file does not: it is set aside under a name of its own, and the
    frames that are sound are read instead.
    """
    detail = f"no form of it is sound: {reasons}"
    raw_damaged = any(check.kind == FormKind.RAW and check.damage for check in checks)
    if raw_damaged and len(checks) > 1:
        kept = await trio.to_thread.run_sync(
            parts.raw_store.set_aside, inode.raw, f"inode-{inode.ino}-{inode.generation}"
        )
        outcome = (await drop_raw(parts, inode.ino, set_aside=True)).outcome
        if outcome == MoveOutcome.BUSY:
            detail += "; a program has the file open, and may read wrong bytes until it closes it"
            return Scrubbed(ScrubOutcome.WAITING, checks, detail)
        detail += f"; its local copy is kept as {kept}"
    detail += "; restore it from a backup"
    await record_damage(parts, inode.ino, detail, logged=False)
    return Scrubbed(ScrubOutcome.QUARANTINED, checks, detail)
