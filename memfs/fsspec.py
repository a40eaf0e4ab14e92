"""`memfs://` for libraries that take URLs of fsspec: files of a mount, as local files.

`memfs://data/a/b` is the file `a/b` of the mount whose directory is named `data`, as `/mnt/data`;
`memfs://default/a/b` is one of the mount that managers start by themselves, and `memfs:///mnt/data/a`
is a path. Nothing here is asynchronous, and files are opened as local ones: `open_local` returns
their paths, and they can be mapped into memory.

Invariant: a path that a URL stands for lies in a mount of memfs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fsspec.implementations.local import LocalFileSystem

from memfs.client.mount import Mount
from memfs.errors import InvalidValueError
from memfs.linux.mounts import list_mounts
from memfs.manager.arguments import filter_given, limit_given
from memfs.manager.place import own_state, start
from memfs.manager.results import plain_filter
from memfs.manager.wishes import Wishes
from memfs.query.globs import escaped_glob
from memfs.query.parsing import parse
from memfs.types import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROTOCOL = "memfs"

OWN = "default"
"""Name of the mount that managers start by themselves; it is started for this name, too."""

_PAGE_COUNT = 1000
"""Files that a page of a query has."""


class MemfsFileSystem(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files of mounts of memfs by URL; a local file system with what memfs knows beside."""

    protocol = PROTOCOL

    @property
    def fsid(self) -> str:
        """Name of this file system among those of fsspec."""
        return PROTOCOL

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:  # noqa: ANN401 - as fsspec has it
        """Return the path that a URL stands for.

        Raises:
            FileNotFoundError: No mount has that name, or several have.
        """
        if isinstance(path, list | tuple):
            return [cls._strip_protocol(each) for each in path]
        text = os.fspath(path)
        if text.startswith(f"{PROTOCOL}://"):
            text = _path_of(text, text.removeprefix(f"{PROTOCOL}://"))
        return LocalFileSystem._strip_protocol(text)

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        return f"{PROTOCOL}://{self._strip_protocol(name)}"

    # --- what memfs knows ------------------------------------------------------------------------
    def query(
        self,
        path: str,
        metadata_filter: Mapping[str, Any] | None = None,
        *,
        at: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """Return the paths of files below a directory that a filter finds by their attributes.

        Args:
            path: A directory, as a URL or a path.
            metadata_filter: As of `MemoryManager.query`; None: all files.
            at: Id of a snapshot: paths are those of then.
            sort: A name of an attribute, `$size` or `$mtime`; with `-` before it, descending.
            limit: Paths at the most.

        Raises:
            ValueError: The filter means nothing, and the message says where.
        """
        mount, directory = self._mounted(path)
        wanted, limit = plain_filter(filter_given(metadata_filter)), limit_given(limit)
        try:
            parse(wanted)
        except InvalidValueError as error:
            raise ValueError(str(error)) from None
        inner = mount.inner(directory)
        condition = wanted
        if inner:
            condition = {"$and": [{"$path": f"/{escaped_glob(inner)}/"}, wanted]}
        top = mount.mountpoint if at is None else mount.snapshots.tree(at)
        found: list[str] = []
        token = None
        while limit is None or len(found) < limit:
            count = _PAGE_COUNT if limit is None else min(_PAGE_COUNT, limit - len(found))
            page = mount.query(condition, sort=sort, token=token, limit=count, at=at)
            found += [f"{top}/{file['path'].lstrip('/')}" for file in page["files"]]
            token = page["token"]
            if token is None:
                break
        return found

    def pin(self, path: str, tier: str, priority: int | None = None) -> None:
        """Send a file, or all below a directory, to a tier and keep it there."""
        mount, place = self._mounted(path)
        mount.pin(place, tier, priority)

    def unpin(self, path: str) -> None:
        """Let memfs choose the tier again."""
        mount, place = self._mounted(path)
        mount.unpin(place)

    def tier(self, path: str) -> str:
        """Return the tier that a file is in."""
        mount, place = self._mounted(path)
        return mount.tier(place)

    def why(self, path: str) -> dict[str, Any]:
        """Return the decision that brought a file where it is."""
        mount, place = self._mounted(path)
        return mount.why(place)

    def prefetch(
        self, paths: str | Iterable[str], tier: Literal["hot", "warm", "cold"] = "warm"
    ) -> int:
        """Have files of one mount brought near; returns how many it has taken."""
        places = [self._mounted(each) for each in ([paths] if isinstance(paths, str) else paths)]
        taken_count = 0
        for mount in {mount for mount, _ in places}:
            inner = [mount.inner(place) for each, place in places if each == mount]
            answer = mount.prefetch(inner, tier)
            taken_count += answer["taken_count"] - answer["skipped_count"]
        return taken_count

    def _mounted(self, path: str) -> tuple[Mount, str]:
        place: str = self._strip_protocol(path)
        return Mount.of(place), place


def _path_of(url: str, rest: str) -> str:
    """Return the path of a URL, of which `rest` is what follows the protocol."""
    if rest.startswith("/"):
        if Mount.find(rest) is None:
            raise FileNotFoundError(f"{url} does not lie in a mount of memfs; {_known()}")
        return rest
    name, _, below = rest.partition("/")
    mounts = {
        mount.mountpoint
        for mount in list_mounts()
        if mount.type == FILESYSTEM_TYPE and mount.mountpoint.name == name
    }
    if len(mounts) > 1:
        which = ", ".join(sorted(f"{PROTOCOL}://{place}" for place in mounts))
        raise FileNotFoundError(f"{url}: several mounts are named {name!r}: {which}")
    if not mounts and name == OWN:
        mounts = {start(own_state(), Wishes()).mountpoint}
    if not mounts:
        raise FileNotFoundError(f"{url}: no mount of memfs is in a directory {name!r}; {_known()}")
    path = os.path.normpath(f"{next(iter(mounts))}/{below}")
    if Path(path) not in mounts and mounts.isdisjoint(Path(path).parents):
        raise FileNotFoundError(f"{url} leads out of its mount")
    return path


def _known() -> str:
    names = sorted(m.mountpoint.name for m in list_mounts() if m.type == FILESYSTEM_TYPE)
    return f"there are {', '.join(names)}" if names else "mount one by `memfs mount`"
