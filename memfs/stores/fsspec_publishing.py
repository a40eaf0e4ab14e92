"""Publishing through any fsspec file system that can write.

Invariant: an object appears under its name by a move of a whole one, right after a look at what is
there. The look and the move are two calls: what somebody else writes between them is overwritten.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from memfs.errors import ObjectMissingError, ObjectTakenError
from memfs.stores.objects import RATE_BYTES_S_MIN, FsspecStore, UploadCallback
from memfs.stores.publishing import PublicObject
from memfs.stores.source import SourceObject
from memfs.stores.store import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.stores.calls import TransferProgress
    from memfs.stores.publishing import PublicAttributes
    from memfs.stores.store import ByteSource

_KEY_BYTES_MAX = 1024


class FsspecPublicStore(FsspecStore):
    """A `PublicStore`; subclasses know one protocol better, and replace what begins with `_`."""

    is_conditional = False
    is_replaced_whole = False
    key_bytes_max = _KEY_BYTES_MAX
    options_place = "the options of the store in the same bucket, [glacier] or [stores.NAME]"
    part_bytes = PART_BYTES
    """Size of a part of an upload; larger files may need larger ones."""

    async def put_if(
        self,
        key: str,
        source: ByteSource,
        former: str,
        attributes: PublicAttributes,
        on_begun: Callable[[str], object],
        *,
        in_parts: bool = False,
    ) -> str:
        """See `PublicStore`."""
        what = f"publish {key}"

        def put(progress: TransferProgress) -> str:
            with contextlib.closing(source):
                callback = UploadCallback(progress)
                return self._put_public(
                    key, source, former, attributes, callback, on_begun, in_parts
                )

        stall_s = self._timeout_s + self.part_bytes / RATE_BYTES_S_MIN
        once = self._once(what, put)
        return await self._calls.transfer(
            what, lambda progress: self._mapped(what, once, progress), stall_s, key
        )

    async def abort(self, key: str, upload: str) -> None:
        """See `PublicStore`."""
        what = f"abort {key}"
        await self._calls.run(
            what, lambda: self._mapped(what, self._abort, key, upload), writes=key
        )

    async def find(self, key: str) -> PublicObject | None:
        """See `PublicStore`."""
        try:
            return await self._call(f"look at {key}", self._look_at_public, key)
        except ObjectMissingError:
            return None

    async def read(self, key: str, stored: PublicObject, start: int, end: int) -> bytes:
        """See `PublicStore`."""
        if start == end:
            await trio.lowlevel.checkpoint()
            return b""
        wanted = SourceObject(key, stored.size, stored.etag, 0)
        return (await self.read_if(wanted, start, end)).data

    async def delete_if(self, key: str, former: str) -> None:
        """See `PublicStore`."""
        what = f"remove {key}"
        await self._calls.run(
            what, lambda: self._mapped(what, self._delete_if, key, former), writes=key
        )

    def _unusable(self, error: Exception) -> str:
        return (
            f"{self.url}: {error}; set what is missing in {self.options_place}, correct the URL, "
            "or install the fsspec package of that protocol"
        )

    def _put_public(
        self,
        key: str,
        source: ByteSource,
        former: str,
        attributes: PublicAttributes,
        callback: UploadCallback,
        on_begun: Callable[[str], object],
        in_parts: bool,
    ) -> str:
        """Store an object; see `put_if`."""
        directory, slash, _ = key.rpartition("/")
        temporary = f"{directory}{slash}.memfs-new-{attributes.token}"
        on_begun(temporary)
        self._put_stream(temporary, source, callback)
        try:
            self._check_former(key, former)
            self._fs.mv(self._path(temporary), self._path(key))
        except BaseException:
            with contextlib.suppress(Exception):
                self._call_fs("rm_file", self._path(temporary))
            raise
        return self._look_at_public(key).etag

    def _abort(self, key: str, upload: str) -> None:
        self._delete(upload)

    def _look_at_public(self, key: str) -> PublicObject:
        found = self._look(key, "")
        return PublicObject(found.etag, found.size, None)

    def _delete_if(self, key: str, former: str) -> None:
        if self._is_there(key):
            self._check_former(key, former)
            self._delete(key)

    def _is_there(self, key: str) -> bool:
        try:
            self._look_at_public(key)
        except FileNotFoundError:
            return False
        return True

    def _check_former(self, key: str, former: str) -> None:
        """Look whether an object has an etag, or, for an empty one, whether there is no object."""
        try:
            found = self._look_at_public(key).etag
        except FileNotFoundError:
            found = ""
        if found != former:
            raise self._taken(key)

    def _taken(self, key: str) -> ObjectTakenError:
        return ObjectTakenError(f"{self.url}/{key}: changed by someone else; it stays as it is")
