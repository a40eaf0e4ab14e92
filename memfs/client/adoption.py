"""Adoption of buckets, for the command line and for Python.

Invariant: every method raises as those of `Mount` do.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, NamedTuple

from memfs.control.client import ControlError, ControlUnavailableError
from memfs.control.methods import adoption, trees

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    from memfs.client.mount import Mount

STEP_S_MAX = 24 * 3600.0
"""A page of a source may take as long as its retries."""


def _to_nobody(_report: adoption.AdoptReport) -> None:
    return


class Adoption(NamedTuple):
    """The sources of one mount; `Mount.adoption`."""

    mount: Mount

    def adopt(
        self,
        url: str,
        path: str | os.PathLike[str],
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        watch_s: int | None = None,
        deleted: str | None = None,
        store: str | None = None,
        take: str | None = None,
        options: Mapping[str, object] | None = None,
        lazy: bool = False,
        head: bool = False,
        on_progress: Callable[[adoption.AdoptReport], None] = _to_nobody,
    ) -> adoption.AdoptReport:
        """Make files of the objects of a bucket or a directory, without copying a byte.

        Stopped, the same call goes on from there. Nothing is ever written to the source.

        Args:
            url: `s3://BUCKET/PREFIX`, `gs://`, `abfs://`, `file:///DIRECTORY`, any fsspec URL.
            path: A directory on this mount, made if it is missing, else empty.
            mode: Permission bits of files; None: 0644.
            uid: Owner; None: that of the directory.
            gid: Group; None: that of the directory.
            watch_s: List the source again each so many seconds; 0 or None: never.
            deleted: `keep` or `remove` files whose object is gone; None: keep.
            store: Name of a store with credentials.
            take: What becomes of the files of `file:///DIRECTORY`: `reference`, `copy` or `move`.
            options: Those of the fsspec file system, no secrets.
            head: Take content type and metadata of objects as xattrs; a request for each.
            lazy: List a directory when somebody first looks into it, instead of all objects now.
            on_progress: Told about once a second what was done so far.

        Returns:
            What was done; `odd` and `refused` name keys that are not as they are there.

        Raises:
            ControlError: EEXIST: the path is another source's. EINVAL: it is not empty, or an
                argument makes no sense. EBUSY: the source is being listed. EIO: it does not answer.
        """
        params: adoption.AdoptParameters = {
            "url": url,
            "path": self.mount.named(path),
            "work": secrets.token_hex(8),
            "mode": mode,
            "uid": uid,
            "gid": gid,
            "watch_s": watch_s,
            "deleted": deleted,
            "store": store,
            "take": take,
            "options": dict(options) if options else None,
            "lazy": lazy,
            "head": head,
        }
        self.mount.refuse_read_only()
        ask = self.mount.asking(adoption.ADOPT, STEP_S_MAX)
        return self._follow(lambda: ask(params), params["work"], on_progress)

    def refresh(
        self,
        path: str | os.PathLike[str],
        *,
        watch_s: int | None = None,
        deleted: str | None = None,
        confirm: bool = False,
        on_progress: Callable[[adoption.AdoptReport], None] = _to_nobody,
    ) -> adoption.AdoptReport:
        """List a source again: new objects become files, those that changed are followed.

        Args:
            path: The directory of the source.
            watch_s: As `adopt`, from now on; None: as before.
            deleted: As `adopt`, from now on; None: as before.
            confirm: Remove files even where more than a tenth of them is gone.
            on_progress: As `adopt`.

        Returns:
            What was done; `problem` says why nothing was removed.

        Raises:
            ControlError: ENOENT: no source has that directory. As `adopt`.
        """
        params: adoption.RefreshParameters = {
            "path": self.mount.named(path),
            "work": secrets.token_hex(8),
            "watch_s": watch_s,
            "deleted": deleted,
            "confirm": confirm,
        }
        self.mount.refuse_read_only()
        ask = self.mount.asking(adoption.ADOPT_REFRESH, STEP_S_MAX)
        return self._follow(lambda: ask(params), params["work"], on_progress)

    def sources(self) -> list[adoption.SourceReport]:
        """Return all sources of the mount."""
        return self.mount.asking(adoption.ADOPT_SOURCES)({})

    def own(self, inos: list[int], *, timeout_s: float = STEP_S_MAX) -> trees.WorkReport:
        """Fetch the bytes of files, which are memfs's own from then on."""
        return self.mount.asking(adoption.ADOPT_OWN, timeout_s)({"inos": inos})

    def forget(self, path: str | os.PathLike[str]) -> int:
        """Give a source up whose files are all owned, or removed; returns how many keys it had.

        Raises:
            ControlError: ENOENT: no source has that directory. EINVAL: a file has its bytes there.
        """
        params: adoption.SourcePathParameters = {"path": self.mount.named(path)}
        self.mount.refuse_read_only()
        return self.mount.asking(adoption.ADOPT_FORGET, STEP_S_MAX)(params)

    def release(
        self,
        path: str | os.PathLike[str],
        *,
        on_progress: Callable[[adoption.AdoptReport], None] = _to_nobody,
    ) -> adoption.AdoptReport:
        """Give a directory back what was adopted from it; it is gone from the mount then.

        Raises:
            ControlError: ENOENT: no source has that directory. EINVAL: it is a bucket.
        """
        params: adoption.ReleaseParameters = {
            "path": self.mount.named(path),
            "work": secrets.token_hex(8),
        }
        self.mount.refuse_read_only()
        ask = self.mount.asking(adoption.ADOPT_RELEASE, STEP_S_MAX)
        return self._follow(lambda: ask(params), params["work"], on_progress)

    def _follow(
        self,
        ask: Callable[[], adoption.AdoptReport],
        work: str,
        on_progress: Callable[[adoption.AdoptReport], None],
    ) -> adoption.AdoptReport:
        try:
            while not (report := ask())["ended"]:
                on_progress(report)
        except BaseException:
            with contextlib.suppress(ControlError, ControlUnavailableError):
                self.mount.asking(adoption.ADOPT_CANCEL)({"work": work})
            raise
        return report
