"""Many values at a time: how a batch is divided into calls, and what each call does.

Small values go to the daemon of a mount by some hundreds a call (`client.small_files`); what it
leaves, and all else, is stored and retrieved one by one as without a batch.

Invariant: a value in a batch becomes what `MemoryManager.store` would have made of it, and a result
is what `retrieve` would have returned.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from memfs.client.small_files import (
    BYTES_A_CALL,
    FILE_BYTES_MAX,
    FILES_A_CALL,
    READS_A_CALL,
    NewFile,
    get_small,
    put_small,
)
from memfs.manager.batches import Done, Work, alone, tried
from memfs.manager.entries import Entry, mtime_of
from memfs.manager.keys import path_of
from memfs.manager.metadata import MIME_XATTR, metadata_of
from memfs.manager.paths import MemPath
from memfs.manager.values.value import Mime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from memfs.client.mount import Mount
    from memfs.manager.root import Root
    from memfs.manager.values.value import ValueFormat

_TIER_XATTR = "user.memfs.tier"

_FIRST_READS = 128
"""Keys of the first call of a batch, so that its values are decoded while the next ones are read;
each further call has twice as many, up to `READS_A_CALL`."""

_CALL_ARGUMENTS = {"overwrite", "durable"}
"""Those that say how all of a call is stored, and not what each value is like."""

_SMALL_TIERS = (None, "warm", "cold", "glacier")
"""Pins that files get as they are made; to `hot` go tensors alone, which the daemon looks at."""

_SMALL_ARGUMENTS = {"key", "value", "tier", "metadata", "format", "overwrite", "durable"}
"""Arguments of `store` that the daemon can follow for many values at a time."""


class NewValue(NamedTuple):
    """What `store` has made of its arguments."""

    key: str
    path: str
    value: object
    kind: ValueFormat
    attributes: dict[str, bytes]
    """Extended attributes; `fill` adds the MIME type."""

    def fill(self, file: BinaryIO) -> None:
        """Write the value."""
        self.attributes[MIME_XATTR] = str(self.kind.write(self.value, file)).encode()


class _Held(NamedTuple):
    """A small value that waits for a call."""

    arguments: Mapping[str, Any]
    new: NewValue
    file: NewFile

    @property
    def terms(self) -> tuple[bytes | None, bool]:
        """What all values of one call have in common: their pin, and whether they are durable."""
        return self.new.attributes.get(_TIER_XATTR), bool(self.arguments.get("durable", False))


class Storing:
    """Divides the items of `batch_store`.

    Args:
        root: That of the manager.
        mount: That it is on; None: a plain directory, where all is stored one by one.
        prepare: Looks at arguments of `store`.
        store: Stores one value.
    """

    def __init__(
        self,
        root: Root,
        mount: Mount | None,
        prepare: Callable[..., NewValue],
        store: Callable[..., Entry],
    ) -> None:
        self._root = root
        self._mount = mount
        self._prepare = prepare
        self._store = store
        self._made: set[str] = set()
        """Directories that are there."""

    def works(self, items: Iterable[Mapping[str, Any]]) -> Iterator[Work[Entry]]:
        """Yield what is to be done, as items are taken."""
        held: list[_Held] = []
        held_bytes = 0
        try:
            for arguments in items:
                found = self._looked_at(arguments)
                if isinstance(found, Work):
                    yield found
                    continue
                full = len(held) == FILES_A_CALL or held_bytes + found.file.size > BYTES_A_CALL
                if held and (full or found.terms != held[0].terms):
                    yield self._group(held)
                    held, held_bytes = [], 0
                held.append(found)
                held_bytes += found.file.size
        except Exception:
            # Those that were taken before are stored all the same.
            if held:
                yield self._group(held)
            raise
        if held:
            yield self._group(held)

    def _looked_at(self, arguments: Mapping[str, Any]) -> _Held | Work[Entry]:
        key = str(arguments.get("key"))
        by_itself: Work[Entry] = alone(key, partial(self._store, **arguments))
        if self._mount is None or not _may_be_small(arguments):
            return by_itself
        try:
            new = self._prepare(
                **{name: arguments[name] for name in arguments if name not in _CALL_ARGUMENTS}
            )
            content = self._root.write_unless_small(
                new.path,
                new.fill,
                new.attributes,
                FILE_BYTES_MAX,
                durable=bool(arguments.get("durable", False)),
            )
        except Exception:
            # Told as `store` tells it.
            return by_itself
        if not isinstance(content, bytes):
            stored = Done(key, self._entry(new, content.st_size, content.st_mtime))
            return Work(lambda: [stored])
        xattrs = {name: each for name, each in new.attributes.items() if name != _TIER_XATTR}
        return _Held(arguments, new, NewFile(new.path, content, xattrs))

    def _group(self, held: Sequence[_Held]) -> Work[Entry]:
        return Work(partial(self._put, held), is_group=True)

    def _put(self, held: Sequence[_Held]) -> list[Done[Entry]]:
        assert self._mount is not None
        for each in held:
            above = each.file.path.rpartition("/")[0]
            if above not in self._made:
                # What is in its way is told by the store of the value.
                tried(above, partial(self._root.make_directory, above))
                self._made.add(above)
        tier, durable = held[0].terms
        mtimes_ns = put_small(
            self._root.path,
            self._mount.state_dir,
            [each.file for each in held],
            tier=None if tier is None else tier.decode(),
            durable=durable,
        )
        return [
            Done(each.new.key, self._entry(each.new, len(each.file.content), mtime_of(mtime_ns)))
            if mtime_ns
            else tried(each.new.key, partial(self._store, **each.arguments))
            for each, mtime_ns in zip(held, mtimes_ns, strict=True)
        ]

    def _entry(self, new: NewValue, size: int, mtime: float) -> Entry:
        path = MemPath(os.path.join(self._root.path, new.path))
        return Entry(new.key, path, metadata_of(new.attributes), size, mtime)


def _may_be_small(arguments: Mapping[str, Any]) -> bool:
    """Tell whether the daemon may be able to store a value, by what costs nothing to look at."""
    if not arguments.keys() <= _SMALL_ARGUMENTS or arguments.get("overwrite", True) is not True:
        return False
    value = arguments.get("value")
    if arguments.get("tier") not in _SMALL_TIERS:
        return False
    # Those of numpy and torch have it; of others it is found out by writing them.
    size = getattr(value, "nbytes", None)
    if size is None and isinstance(value, bytes | bytearray | str):
        size = len(value)
    return not isinstance(size, int) or size <= FILE_BYTES_MAX


class Retrieving:
    """Divides the keys of `batch_retrieve`.

    Args:
        root: That of the manager.
        mount: That it is on; None: a plain directory, where all is retrieved one by one.
        read: Makes a value of key, path, content and MIME type; where only `retrieve` can, it does.
        retrieve: Retrieves one value.
    """

    def __init__(
        self,
        root: Root,
        mount: Mount | None,
        read: Callable[[str, str, bytes, Mime], Any] | None,
        retrieve: Callable[[str], Any],
    ) -> None:
        self._root = root
        self._mount = mount
        self._read = read
        self._retrieve = retrieve

    def works(self, keys: Iterable[str]) -> Iterator[Work[Any]]:
        """Yield what is to be done, as keys are taken."""
        if self._mount is None or self._read is None:
            for key in keys:
                yield alone(str(key), partial(self._retrieve, key))
            return
        held: list[tuple[str, str]] = []
        held_bytes, count_max = 0, _FIRST_READS
        for key in keys:
            try:
                path = path_of(key)
            except Exception:
                yield alone(str(key), partial(self._retrieve, key))
                continue
            size = len(path.encode())
            if len(held) == count_max or (held and held_bytes + size > BYTES_A_CALL):
                yield self._group(held)
                held, held_bytes, count_max = [], 0, min(2 * count_max, READS_A_CALL)
            held.append((key, path))
            held_bytes += size
        if held:
            yield self._group(held)

    def _group(self, held: Sequence[tuple[str, str]]) -> Work[Any]:
        return Work(partial(self._get, held), is_group=True)

    def _get(self, held: Sequence[tuple[str, str]]) -> list[Done[Any]]:
        assert self._mount is not None
        assert self._read is not None
        paths = [path for _, path in held]
        contents = get_small(self._root.path, self._mount.state_dir, paths, MIME_XATTR)
        # Few for all of them.
        mimes = {text: Mime.parse(text) for text in {each[1] for each in contents if each}}
        read, found = self._read, list[Done[Any]]()
        for (key, path), content in zip(held, contents, strict=True):
            if content is None:
                found.append(tried(key, partial(self._retrieve, key)))
                continue
            try:
                found.append(Done(key, read(key, path, content[0], mimes[content[1]])))
            except Exception as error:
                found.append(Done(key, None, error))
        return found
