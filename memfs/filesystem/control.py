"""The xattrs that control memfs: `user.memfs.tier`, `pin`, `state`, `residency`, `why`, ...

Invariant: what they say is read from where it is decided (engine, residency, kernel), never from a
copy of it; and a value that makes no sense changes nothing.
"""

from __future__ import annotations

import difflib
import json
import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING

from memfs.addresses import DEFAULT_NAME, store_of, told_store
from memfs.bounded import BoundedDict
from memfs.codecs.registry import get_codec, parse_codec
from memfs.errors import (
    AlreadyExistsError,
    FilesOpenError,
    InvalidValueError,
    NotPermittedError,
    NotSupportedError,
    NoXattrError,
)
from memfs.filesystem.control_names import (
    ASK_XATTR,
    CACHE_XATTR,
    CODEC_XATTR,
    CONTROL_XATTRS,
    DIGEST_XATTR,
    FROZEN_XATTR,
    INHERITED_XATTRS,
    LEASE_XATTR,
    PIN_XATTR,
    RESIDENCY_XATTR,
    SOURCE_XATTR,
    STATE_XATTR,
    TIER_XATTR,
    WHY_XATTR,
)
from memfs.filesystem.freezing import Freezing
from memfs.filesystem.tensor_headers import TensorHeaders
from memfs.hot.protocol import shorten
from memfs.hot.tensors import FormatError, parse_dtype, parse_shape
from memfs.metadata.foreign import Conflict
from memfs.metadata.records import Decision, Form, Inode, InodeFlags
from memfs.moves.choosing import wanted_store
from memfs.moves.publish_marks import is_allowed, note_root, target_of
from memfs.policy import rules
from memfs.policy.ages import AGE_SETTING, NO_AGES, parse_ages
from memfs.policy.marks import (
    AGES_XATTR,
    MARKED_SETTING,
    MARKS,
    POOL_XATTR,
    PRIORITY_XATTR,
    PUBLISH_DELETED_XATTR,
    PUBLISH_XATTR,
    SNAPSHOT_XATTR,
    SNAPSHOTS_ON,
    STORE_XATTR,
    TENSOR_DTYPE_XATTR,
    TENSOR_MARKS,
    TENSOR_SHAPE_XATTR,
    parse_deleted,
    parse_priority,
    parse_snapshots,
)
from memfs.policy.outlook import Facts, outlook
from memfs.policy.view import PRIORITY_DEFAULT
from memfs.sizes import format_size
from memfs.types import Durability, FormKind, PendingCode, Tier
from memfs.waiting import leave

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from memfs.filesystem.operations import Caller
    from memfs.filesystem.shared import Parts
    from memfs.metadata.foreign import Source
    from memfs.metadata.records import PendingMove
    from memfs.types import InodeNo, SourceId

UNFROZEN_COUNT_MAX = 100

UNPINNED = "auto"
"""What `pin` reads, and `tier` takes, where no pin is in force."""


_CONFLICTS = {
    Conflict.CHANGED: "the object was changed there, and the file here: the file stays as it is",
    Conflict.GONE: "the object is not there any more",
    Conflict.TAKEN: "an object of the source would have this name, which was taken",
}


class Control:
    """Reads and writes of `user.memfs.*`.

    `CONTROL_XATTRS` has their names and tells which can be written. Not one is listed by
    listxattr(2): `cp -a` and `rsync -X` neither fail on them, nor spread them, nor take them away.
    """

    def __init__(self, parts: Parts) -> None:
        self._engine = parts.engine
        self._raw_store = parts.raw_store
        self._open_table = parts.open_table
        self._sealer = parts.sealer
        self._activity = parts.activity
        self._residency = parts.residency
        self._features = parts.features
        self._access_stats = parts.access_stats
        self._hot = parts.hot
        self._door = parts.door
        self._headers = (
            None if parts.header_reader is None else TensorHeaders(parts, parts.header_reader)
        )
        self._healths = parts.healths
        self._move_parts = parts.move_parts
        self._config = parts.move_parts.config
        self._progress = parts.move_parts.progress
        is_shared = self._config.metadata.url is not None
        self._unfrozen: BoundedDict[InodeNo, str] = BoundedDict(UNFROZEN_COUNT_MAX)
        """Why directories could not be frozen lately, for `why`."""
        self._freezing = Freezing(parts.engine, parts.sealer, is_shared=is_shared)
        self._events = parts.move_parts.events
        self._room = parts.room
        self._recency = parts.recency
        self._readers: dict[bytes, Callable[[Inode], Awaitable[str]]] = {
            TIER_XATTR: self._tier,
            PIN_XATTR: self._pin,
            STATE_XATTR: self._state,
            RESIDENCY_XATTR: self._residency_json,
            WHY_XATTR: self._why,
            CODEC_XATTR: self._codec,
            DIGEST_XATTR: self._digest,
            SOURCE_XATTR: self._source_json,
            PRIORITY_XATTR: self._priority,
            POOL_XATTR: self._pool,
            AGES_XATTR: partial(self._mark, AGES_XATTR),
            SNAPSHOT_XATTR: self._snapshots,
            STORE_XATTR: self._store,
            PUBLISH_XATTR: partial(self._mark, PUBLISH_XATTR),
            PUBLISH_DELETED_XATTR: partial(self._mark, PUBLISH_DELETED_XATTR),
            TENSOR_DTYPE_XATTR: partial(self._mark, TENSOR_DTYPE_XATTR),
            TENSOR_SHAPE_XATTR: partial(self._mark, TENSOR_SHAPE_XATTR),
            FROZEN_XATTR: self._frozen,
        }

    async def get(self, caller: Caller, ino: InodeNo, name: bytes) -> bytes:
        """Return the value of a control xattr.

        Raises:
            NoXattrError: No such name, or nothing to tell (no digest yet).
        """
        if name == LEASE_XATTR:
            return await self._lease(caller, ino)
        if name == ASK_XATTR:
            return await self._ask(caller, ino)
        reader = self._readers.get(name)
        if reader is None:
            raise NoXattrError(f"{name.decode(errors='backslashreplace')} is not one of memfs's")
        if self._engine.refusal is None:
            await self._sealer.seal(ino)
        return (await reader(await self._engine.get_inode(ino))).encode()

    async def set(
        self, caller: Caller, ino: InodeNo, name: bytes, value: bytes, flags: int
    ) -> None:
        """Write a control xattr; flags `XATTR_CREATE`, `XATTR_REPLACE` as in setxattr(2).

        A pin or codec exists if it is the inode's own; one that is inherited does not.

        Raises:
            AlreadyExistsError, NoXattrError: By the flags.
            InvalidValueError: Not a value of that xattr.
            NotPermittedError: It only tells; or it holds for what is below, and another user's.
            NotSupportedError: A tier or name that this mount does not have.
        """
        await self._require_owner(caller, ino, name)
        text = value.rstrip(b"\0\n").decode("utf-8", "backslashreplace")
        if name == TIER_XATTR:
            await self._set_pin(ino, self.parse_tier(text), flags)
        elif name == CODEC_XATTR:
            get_codec(parse_codec(text))
            async with self._engine.change(deferred=True):
                _check_flags(name, bool((await self._engine.get_inode(ino)).codec), flags)
                await self._engine.set_codec(ino, text)
            self._activity.note_pin(ino)
        elif name in (*MARKS, *TENSOR_MARKS):
            await self._set_mark(ino, name, text, flags)
        elif name == FROZEN_XATTR:
            await self._freeze(ino, text, flags)
        elif name == CACHE_XATTR:
            await self._drop_pages(ino, text)
        elif name == ASK_XATTR and self._door is not None:
            self._door.show(text, caller.uid, ino)
        elif name in CONTROL_XATTRS:
            raise NotPermittedError(f"{name.decode()} only tells; it cannot be set")
        else:
            raise NotSupportedError(
                f"{name.decode(errors='backslashreplace')} is not one of memfs's"
            )

    async def _require_owner(self, caller: Caller, ino: InodeNo, name: bytes) -> None:
        """See that only its owner and root say what holds for all below a directory.

        Who may write to it has the right to set `user.*` (xattr(7)). In a directory of root that
        all may write to, one of them would else send others' files to the store, or out of
        snapshots: what root has set holds for everybody's.
        """
        if name not in INHERITED_XATTRS or not caller.uid:
            return
        inode = await self._engine.get_inode(ino)
        if stat.S_ISDIR(inode.mode) and inode.uid != caller.uid:
            raise NotPermittedError(
                f"{name.decode()} holds for all below a directory: only its owner and root set it"
            )

    async def _freeze(self, ino: InodeNo, text: str, flags: int) -> None:
        if text != "1":
            raise InvalidValueError(
                f"{FROZEN_XATTR.decode()} takes 1, and not {text!r}; remove it to thaw the tree"
            )
        tree = await self._engine.find_frozen(ino)
        _check_flags(FROZEN_XATTR, tree is not None and tree.ino == ino, flags)
        try:
            is_new = await self._freezing.freeze(ino)
        except (FilesOpenError, InvalidValueError) as error:
            self._unfrozen[ino] = str(error)
            raise
        self._unfrozen.pop(ino, None)
        if is_new:
            await self._tell(ino, "frozen")

    async def _tell(self, ino: InodeNo, what: str) -> None:
        """Note an event: what has become of a tree."""
        self._events.note("freeze", os.fsdecode(await self._engine.get_path(ino)), what)

    async def _frozen(self, inode: Inode) -> str:
        tree = await self._engine.find_frozen(inode.ino)
        if tree is None:
            raise NoXattrError("it is not frozen")
        return os.fsdecode(await self._engine.get_path(tree.ino))

    async def _set_pin(self, ino: InodeNo, tier: Tier | None, flags: int) -> None:
        if tier == Tier.HOT:
            inode = await self._engine.get_inode(ino)
            _check_pin(inode, flags)
            if stat.S_ISREG(inode.mode):
                await self._check_tensors(ino)
        async with self._engine.change(deferred=True):
            _check_pin(await self._engine.get_inode(ino), flags)
            await self._engine.set_pin(ino, tier)
        self._activity.note_pin(ino)
        path = os.fsdecode(await self._engine.get_path(ino))
        what = "unpinned" if tier is None else f"pinned to {tier.label}"
        self._events.note("pin", path, what)

    async def _drop_pages(self, ino: InodeNo, text: str) -> None:
        if text != "drop":
            raise InvalidValueError(f"{CACHE_XATTR.decode()} takes `drop`, and not {text!r}")
        inode = await self._engine.get_inode(ino)
        if inode.raw and inode.nlink == 1 and not self._open_table.is_open(ino):
            await leave()
            await self._residency.drop_pages(ino, inode.raw)

    async def _set_mark(self, ino: InodeNo, name: bytes, text: str, flags: int) -> None:
        """Store a mark, which holds for all below a directory."""
        if name == PRIORITY_XATTR:
            parse_priority(text)
        elif name == POOL_XATTR:
            self._access_stats.pools.require(text)
        elif name == AGES_XATTR:
            text = parse_ages(text).text()
        elif name == SNAPSHOT_XATTR:
            parse_snapshots(text)
        elif name == STORE_XATTR:
            self._require_store(text)
        elif name == PUBLISH_XATTR:
            self._require_target(text)
        elif name == PUBLISH_DELETED_XATTR:
            parse_deleted(text)
        elif name == TENSOR_DTYPE_XATTR:
            parse_dtype(text)
        else:
            parse_shape(text)
        async with self._engine.change(deferred=True):
            inode = await self._engine.get_inode(ino)
            if not stat.S_ISREG(inode.mode) and not stat.S_ISDIR(inode.mode):
                raise NotSupportedError(f"only files and directories have {name.decode()}")
            await self._engine.set_xattr(ino, name, text.encode(), flags, inode.ctime_ns)
            if name == PUBLISH_XATTR:
                await note_root(self._engine, ino)
            if not self._access_stats.marked:
                await self._engine.put_setting(MARKED_SETTING, b"1")
            if name == AGES_XATTR:
                await self._note_age(text)
        self._access_stats.marked = True
        if name in TENSOR_MARKS and self._hot is not None:
            self._hot.clear_refusals()
        if name in (PUBLISH_XATTR, PUBLISH_DELETED_XATTR):
            self._activity.changes.note_all()
        self._activity.note_pin(ino)

    async def _note_age(self, text: str) -> None:
        """Have files looked for that are as old as the shortest age of any mark."""
        age_ns, stats = parse_ages(text).shortest_ns, self._access_stats
        if age_ns is None or (
            stats.shortest_age_ns is not None and stats.shortest_age_ns <= age_ns
        ):
            return
        await self._engine.put_setting(AGE_SETTING, str(age_ns).encode())
        stats.note_age(age_ns)

    def _require_target(self, url: str) -> None:
        """Refuse a place where users may not publish."""
        target = target_of(url)
        if not is_allowed(target, self._config):
            raise InvalidValueError(
                f"{target}: files are published by themselves only below the URLs of "
                "publish.targets; `memfs publish` does it once, anywhere"
            )

    def _require_store(self, name: str) -> None:
        """Refuse a store that this mount does not have."""
        if not self._features.glacier:
            raise NotSupportedError("this mount has no object store")
        known = [DEFAULT_NAME, *self._config.stores]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            told = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise InvalidValueError(
                f"store {name!r} is not configured; {told} [stores.NAME] of the configuration "
                "makes one"
            )

    async def _store(self, inode: Inode) -> str:
        return told_store(await wanted_store(self._engine, inode.ino))

    async def remove(self, caller: Caller, ino: InodeNo, name: bytes) -> None:
        """Remove a control xattr: unpin, or go back to the configured codec.

        Raises:
            NoXattrError: It is not set.
            NotPermittedError: It only tells; or it holds for what is below, and another user's.
        """
        await self._require_owner(caller, ino, name)
        if name in (*MARKS, *TENSOR_MARKS):
            async with self._engine.change(deferred=True):
                inode = await self._engine.get_inode(ino)
                await self._engine.remove_xattr(ino, name, inode.ctime_ns)
            if name in (PUBLISH_XATTR, PUBLISH_DELETED_XATTR):
                self._activity.changes.note_all()
            self._activity.note_pin(ino)
            return
        if name == FROZEN_XATTR:
            await self._freezing.thaw(ino)
            await self._tell(ino, "thawed")
            return
        if name not in (TIER_XATTR, CODEC_XATTR):
            if name in CONTROL_XATTRS:
                raise NotPermittedError(f"{name.decode()} only tells; it cannot be removed")
            raise NoXattrError(f"{name.decode(errors='backslashreplace')} is not set")
        async with self._engine.change(deferred=True):
            inode = await self._engine.get_inode(ino)
            if not (inode.pin if name == TIER_XATTR else inode.codec):
                raise NoXattrError(f"{name.decode()} is not set")
            if name == TIER_XATTR:
                await self._engine.set_pin(ino, None)
            else:
                await self._engine.set_codec(ino, None)
        self._activity.note_pin(ino)

    def parse_tier(self, text: str) -> Tier | None:
        """Return the tier that a pin names; None: the one that says that there is no pin.

        Raises:
            InvalidValueError: It names no tier.
            NotSupportedError: The mount has no such tier.
        """
        if text == UNPINNED:
            return None
        try:
            tier = Tier[text.upper()]
        except KeyError:
            raise InvalidValueError(
                f"tier {text!r} is not one of hot, warm, cold, glacier, auto"
            ) from None
        available = {
            Tier.HOT: self._hot is not None,
            Tier.WARM: self._features.warm,
            Tier.COLD: True,
            Tier.GLACIER: self._features.glacier,
        }
        if not available[tier]:
            remedy = "; set hot.devices and hot.size" if tier == Tier.HOT else ""
            raise NotSupportedError(f"this mount has no {tier.label} tier{remedy}")
        return tier

    async def _check_tensors(self, ino: InodeNo) -> None:
        """Refuse a pin to hot of a file without tensors, and note why for `why`.

        A file that has a writer is looked at when it is closed.
        """
        await self._sealer.seal(ino)
        inode = await self._engine.get_inode(ino)
        if inode.flags & InodeFlags.UNSEALED or self._headers is None:
            return
        try:
            await self._headers.check(inode)
        except FormatError as error:
            reason = shorten(str(error))
            if self._hot is not None:
                self._hot.note_refusal(ino, inode.generation, reason)
            decision = Decision(rules.NOT_TENSORS, reason, 0, time.time_ns())
            await self._engine.record_decision(ino, decision)
            raise
        if self._hot is not None:
            # Its type and shape may have been told since.
            self._hot.clear_refusals(ino)

    async def _ask(self, caller: Caller, ino: InodeNo) -> bytes:
        if self._door is None or not stat.S_ISDIR((await self._engine.get_inode(ino)).mode):
            raise NoXattrError("only directories tell where to ask")
        return self._door.ticket(caller.uid, ino).encode()

    async def _lease(self, caller: Caller, ino: InodeNo) -> bytes:
        if self._hot is None:
            raise NoXattrError("this mount has no hot tier; set hot.devices and hot.size")
        await self._sealer.seal(ino)
        inode = await self._engine.get_inode(ino)
        if not stat.S_ISREG(inode.mode) or inode.flags & InodeFlags.UNSEALED:
            raise NoXattrError("only a file that nobody writes can be attached to")
        return self._hot.ticket(ino, inode.generation, caller.uid).encode()

    def _hot_devices(self, inode: Inode) -> list[str]:
        if self._hot is None or inode.flags & InodeFlags.UNSEALED:
            return []
        return self._hot.devices(inode.ino, inode.generation)

    def _no_hot_tier(self) -> str | None:
        """Return why the hot tier does not serve at present; None: it does, or begins to."""
        if self._hot is None:
            return "it is switched off: set hot.devices and hot.size"
        return None if self._hot.is_starting else self._hot.note

    async def _tier(self, inode: Inode) -> str:
        if stat.S_ISREG(inode.mode):
            return (await self.tier_of(inode)).label
        return await self._pin(inode)

    async def tier_of(self, inode: Inode) -> Tier:
        """Return the fastest residency of a regular file."""
        if self._hot_devices(inode):
            return Tier.HOT
        if not inode.raw:
            forms = await self._engine.list_all_forms(inode)
            packed = any(form.kind == FormKind.PACKED for form in forms)
            return Tier.COLD if packed else Tier.GLACIER
        if self._residency.is_resident(inode.ino):
            return Tier.WARM
        if inode.flags & InodeFlags.UNSEALED and self._features.warm:
            # Being written: warm as long as the kernel has all of it in memory.
            size = self._raw_store.stat(inode.raw).st_size
            resident = self._residency.ram_bytes(self._raw_store.path(inode.raw))
            return Tier.WARM if resident >= size else Tier.COLD
        return Tier.COLD

    async def _pin(self, inode: Inode) -> str:
        pin = await self._engine.effective_pin(inode.ino)
        return pin.tier.label if pin.tier is not None else UNPINNED

    async def _state(self, inode: Inode) -> str:
        return (await self.durability_of(inode)).value

    async def durability_of(self, inode: Inode) -> Durability:
        """Return how safe an inode's current generation is."""
        if inode.flags & InodeFlags.UNSEALED:
            return Durability.DIRTY
        forms = await self._forms(inode)
        kinds = {form.kind for form in forms}
        if any(form.kind == FormKind.REMOTE and not form.is_foreign for form in forms):
            return Durability.REMOTE
        if forms and forms[-1].is_foreign:
            return Durability.FOREIGN
        if inode.flags & InodeFlags.DURABLE or FormKind.PACKED in kinds:
            return Durability.LOCAL
        if inode.raw:
            return Durability.DIRTY
        # On a node that reads they are on the one that writes.
        is_lost = self._recency is None and not forms and bool(inode.size or inode.blob)
        return Durability.LOST if is_lost and stat.S_ISREG(inode.mode) else Durability.LOCAL

    async def _residency_json(self, inode: Inode) -> str:
        forms = await self._forms(inode)
        kinds = [form.kind.value for form in forms]
        keys = {form.kind.value: form.coding.key_id for form in forms}
        if inode.raw:
            kinds.insert(0, FormKind.RAW.value)
        ram_bytes = self._residency.ram_bytes(self._raw_store.path(inode.raw)) if inode.raw else 0
        return json.dumps(
            {
                "forms": kinds,
                "ram_bytes": ram_bytes,
                "locked": self._residency.is_locked(inode.ino),
                "devices": self._hot_devices(inode),
                "keys": {kind: key_id for kind, key_id in keys.items() if key_id},
            }
        )

    async def _why(self, inode: Inode) -> str:
        decision = await self._engine.get_decision(inode.ino)
        pending = await self._engine.get_pending(inode.ino)
        answer = await self._decided(inode, decision)
        if pending is not None:
            answer["pending"] = _waits(
                pending.wanted,
                self._code_of(inode, pending),
                pending.reason,
                pending.attempt_count,
                pending.retry_ns,
                pending.until_ns,
            )
        if (moving := self._under_way(inode.ino)) is not None:
            answer["pending"] = moving
        if (waits := await self._wait_for_writer(inode)) is not None:
            answer["pending"] = waits
        if self._room is not None and self._room.is_held_back(inode.ino):
            answer["room"] = (
                "a program that writes here is held back: the disk is nearly full, and files are "
                "on their way to the object store"
            )
        if (refusal := self._engine.refusal) is not None:
            answer["names"] = refusal
        if self._recency is not None:
            answer |= await self._recency.why(inode)
        elif await self.durability_of(inode) == Durability.LOST:
            answer["content"] = (
                "its bytes are nowhere, and reading is an error: it has lost all its forms, or the "
                "node that wrote before had them alone; write it anew, or remove it"
            )
        if self._residency.is_refused(inode.ino):
            answer["ram"] = self._residency.refusal
        if self._hot is not None and (refusal := self._hot.refusal(inode.ino, inode.generation)):
            # Beside the last decision, which others replace.
            answer["hot"] = refusal
        if (absent := self._no_hot_tier()) and await self._pin(inode) == Tier.HOT.label:
            answer["hot_tier"] = absent
        if (reason := self._unfrozen.get(inode.ino)) is not None:
            answer["freeze"] = reason
        if (tree := await self._engine.find_frozen(inode.ino)) is not None:
            path = os.fsdecode(await self._engine.get_path(tree.ino))
            answer["frozen"] = f"{path} is frozen: nothing in it changes until `memfs thaw {path}`"
        if (reason := self._move_parts.unpublished.get(inode.ino)) is not None:
            answer["unpublished"] = reason
        answer |= await self._stores(inode)
        if (source := await self._source(inode)) is not None:
            answer["source"] = source
        if stat.S_ISREG(inode.mode):
            answer |= await self._prospects(inode)
        return json.dumps(answer)

    async def _stores(self, inode: Inode) -> dict[str, object]:
        """Return which store has a file's object, where there are several, and how it fails.

        What the file waits for may be just that.
        """
        wanted = await wanted_store(self._engine, inode.ino)
        forms = [form for form in await self._forms(inode) if form.kind == FormKind.REMOTE]
        now = store_of(forms[0].place.key) if forms else None
        answer: dict[str, object] = {}
        if wanted or now:
            told: dict[str, object] = {"belongs": told_store(wanted)}
            if now is not None:
                told["lies"] = told_store(now)
            if now is not None and now != wanted:
                told["reason"] = "its object is in another store: `memfs relocate` moves it"
            for name in {wanted, now or ""} - {"", *self._config.stores}:
                told["reason"] = (
                    f"store {name!r} is not configured: write [stores.{name}] and mount again"
                )
            answer["object_store"] = told
        health = self._healths.get(wanted if now is None else now)
        if health is not None and health.well is False:
            answer["store"] = {
                "fails_s": round(health.lasts_s or 0.0, 1),
                "reason": health.reason,
            }
        return answer

    def _code_of(self, inode: Inode, pending: PendingMove) -> PendingCode:
        """Return what a file waits for; no device is full for it since an earlier mount."""
        if pending.code != PendingCode.FULL:
            return pending.code
        is_full = self._hot is not None and self._hot.is_full_for(inode.ino, inode.generation)
        return PendingCode.FULL if is_full else PendingCode.OTHER

    async def _decided(self, inode: Inode, decision: Decision | None) -> dict[str, object]:
        """Return the decision that put a file where it is, or the pin that will move it."""
        pin = (await self._engine.effective_pin(inode.ino)).tier
        if stat.S_ISDIR(inode.mode):
            below = "each file below it has its own"
            if pin is not None:
                below = f"files below it are pinned to {pin.label}, but for those with own pins"
            return {"rule": "none", "detail": f"a directory has no place: {below}"}
        name = None if decision is None else rules.name_of(decision.rule)
        if pin is not None and stat.S_ISREG(inode.mode):
            there = await self.tier_of(inode) == pin
            # What was decided before it was pinned, or by an earlier pin, is no longer the reason.
            if name is None or name in rules.BY_ITSELF or (name == rules.PIN and not there):
                way = ", where it is" if there else "; on its way"
                if pin == Tier.HOT and self._no_hot_tier():
                    way = ", whose tier does not serve at present"
                detail = f"pinned to {pin.label}{way}"
                return {"rule": rules.PIN, "trigger": rules.TRIGGERS[rules.PIN], "detail": detail}
        if decision is None or name is None:
            return {"rule": "none", "detail": "no decision has been made on this file yet"}
        return {
            "rule": name,
            "trigger": rules.TRIGGERS.get(name, f"the policy's rule {name}"),
            "detail": decision.detail,
            "bytes": decision.moved_bytes,
            "time_ns": decision.decided_ns,
        }

    def _under_way(self, ino: InodeNo) -> dict[str, object] | None:
        """Return how far the move of a file is that somebody has decided on."""
        progress = self._progress
        move, wanted = progress.find(ino), progress.wanted(ino)
        if move is None and wanted is None:
            return None
        if move is not None:
            done, total = format_size(move.done_bytes), format_size(move.total_bytes)
            reason = f"{move.kind} under way: {done} of {total}"
        else:
            reason = "it waits for its turn, or is written into an object with others"
        return _waits(wanted or Tier.COLD, PendingCode.OTHER, reason)

    async def _prospects(self, inode: Inode) -> dict[str, object]:
        """Return how much the policy values a file now, and what would change its place."""
        pool = await self._engine.effective_xattr(inode.ino, POOL_XATTR)
        tier, pool_name = await self.tier_of(inode), (pool or b"").decode()
        queue = self._access_stats.pools.pool(pool_name).queue
        accessed_ns = self._activity.last_access_ns(inode.ino) or inode.accessed_ns
        pin = (await self._engine.effective_pin(inode.ino)).tier
        score = {
            "priority": int(await self._priority(inode)),
            "uses": queue.uses(inode.ino),
            "pool": pool_name or None,
        }
        stored = await self._engine.effective_xattr(inode.ino, AGES_XATTR)
        ages = NO_AGES if stored is None else parse_ages(stored.decode())
        is_raw, packs = bool(inode.raw), self._move_parts.writes
        facts = Facts(inode.ino, tier, pin, accessed_ns, pool_name, is_raw, ages, packs)
        return {"score": score, "outlook": outlook(facts, self._access_stats)}

    async def _wait_for_writer(self, inode: Inode) -> dict[str, object] | None:
        """Return why a pinned file does not move yet, which no attempt has to find out."""
        if not inode.flags & InodeFlags.UNSEALED:
            return None
        pin = (await self._engine.effective_pin(inode.ino)).tier
        if pin is None or pin == await self.tier_of(inode):
            return None
        # A mapping outlives its handle, and keeps the file from being sealed as well.
        how = "open" if self._open_table.has_writer(inode.ino) else "mapped"
        reason = f"a program has it {how} for writing; it moves when that ends"
        return _waits(pin, PendingCode.OPEN, reason)

    async def _priority(self, inode: Inode) -> str:
        priority = await self._engine.effective_xattr(inode.ino, PRIORITY_XATTR)
        return str(PRIORITY_DEFAULT) if priority is None else priority.decode()

    async def _pool(self, inode: Inode) -> str:
        pool = await self._engine.effective_xattr(inode.ino, POOL_XATTR)
        if pool is None:
            raise NoXattrError("it belongs to no pool")
        return pool.decode()

    async def _snapshots(self, inode: Inode) -> str:
        value = await self._engine.effective_xattr(inode.ino, SNAPSHOT_XATTR)
        return (value or SNAPSHOTS_ON).decode()

    async def _mark(self, name: bytes, inode: Inode) -> str:
        value = await self._engine.effective_xattr(inode.ino, name)
        if value is None:
            raise NoXattrError(f"{name.decode()} is not set")
        return value.decode()

    async def _codec(self, inode: Inode) -> str:
        codec = await self._engine.effective_codec(inode.ino)
        return codec if codec is not None else self._features.codec

    async def _digest(self, inode: Inode) -> str:
        if not inode.blob:
            foreign = await self._engine.get_object(inode.ino)
            if foreign is not None and foreign.digest and foreign.generation == inode.generation:
                return foreign.digest.hex()
            raise NoXattrError("the digest of this generation is not known yet")
        return (await self._engine.get_blob(inode.blob)).digest.hex()

    async def _source_json(self, inode: Inode) -> str:
        source = await self._source(inode)
        if source is None:
            raise NoXattrError("it was not adopted")
        return json.dumps(source)

    async def _source(self, inode: Inode) -> dict[str, object] | None:
        """Return the object that a file was made of, and in what both differ; None: not one.

        A directory that a source was adopted into tells the source.
        """
        if stat.S_ISDIR(inode.mode):
            sources = await self._engine.list_sources()
            return self._source_below(next((s for s in sources if s.root == inode.ino), None))
        foreign = await self._engine.get_object(inode.ino)
        if foreign is None:
            return None
        sources = await self._engine.list_sources()
        url = next((each.url for each in sources if each.source == foreign.source), "")
        told: dict[str, object] = {
            "url": f"{url}/{foreign.name}".encode("utf-8", "backslashreplace").decode(),
            "etag": foreign.etag,
            "size": foreign.size,
            "mtime_ns": foreign.mtime_ns,
            "stands": foreign.generation == inode.generation,
            "followed": foreign.current,
        }
        if foreign.version:
            told["version"] = foreign.version
        if foreign.conflict:
            told["conflict"] = foreign.conflict.value
            told["reason"] = _CONFLICTS[foreign.conflict]
        return told | self._listing_of(foreign.source)

    def _source_below(self, source: Source | None) -> dict[str, object] | None:
        if source is None:
            return None
        told: dict[str, object] = {
            "url": source.url,
            "watch_s": source.watch_s,
            "deleted": source.deleted.value,
            "listed_ns": source.listed_ns,
        }
        if source.problem:
            told["reason"] = source.problem
        return told | self._listing_of(source.source)

    def _listing_of(self, source: SourceId) -> dict[str, object]:
        """Return why a source that is watched is not listed although it is time, if so."""
        opened = self._move_parts.sources
        waits = None if opened is None else opened.waiting.get(source)
        return {} if waits is None else {"waits": waits}

    async def _forms(self, inode: Inode) -> list[Form]:
        return await self._engine.list_all_forms(inode)


def _waits(
    wanted: Tier,
    code: PendingCode,
    reason: str,
    attempt_count: int = 0,
    retry_ns: int = 0,
    until_ns: int = 0,
) -> dict[str, object]:
    """Return a pending move as `user.memfs.why` tells it; times in ns, 0: it has no such time."""
    return {
        "wanted": wanted.label,
        "code": code,
        "reason": reason,
        "attempts": attempt_count,
        "retry_ns": retry_ns,
        "until_ns": until_ns,
    }


def _check_pin(inode: Inode, flags: int) -> None:
    """Refuse a pin of what has no tier, or where the flags forbid it."""
    if not stat.S_ISREG(inode.mode) and not stat.S_ISDIR(inode.mode):
        raise NotSupportedError("only files and directories have a tier")
    _check_flags(TIER_XATTR, bool(inode.pin), flags)


def _check_flags(name: bytes, exists: bool, flags: int) -> None:
    if flags & os.XATTR_CREATE and exists:
        raise AlreadyExistsError(f"{name.decode()} is set already")
    if flags & os.XATTR_REPLACE and not exists:
        raise NoXattrError(f"{name.decode()} is not set")
