"""Questions: a filter over the keys of a directory, which a mount answers page by page.

Invariant: a file that was removed since, or that no key has, is in no page.
"""

from __future__ import annotations

import errno as codes
import os
import stat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from memfs.control.client import ControlError
from memfs.errors import InvalidValueError
from memfs.manager.entries import Entry
from memfs.manager.errors import FilterError
from memfs.manager.keyed import key_at
from memfs.manager.metadata import metadata_of
from memfs.manager.paths import MemPath
from memfs.manager.results import Page, plain_filter
from memfs.query.globs import escaped_glob
from memfs.query.parsing import parse

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.mount import Mount
    from memfs.control.methods.queries import FoundReport
    from memfs.manager.root import Root

_FILES_A_PAGE = 1000
"""Files that a page has; a page is a second's work for the daemon at the most."""

_EXPLAINED: tuple[Literal["driver", "place", "is_exact", "duration_s", "notes"], ...] = (
    *("driver", "place", "is_exact", "duration_s", "notes"),
)
"""What the answer tells of how it was found."""


class Question(NamedTuple):
    """What a mount is asked."""

    mount: Mount
    root: Root
    """The directory of all keys, now or as of a snapshot."""
    top: Path
    """What paths of answers begin at: the mountpoint, or the tree of a snapshot."""
    condition: dict[str, Any]
    prefix: str
    """That of the keys."""
    sort: str | None
    at: str | None
    """Id of a snapshot; None: now."""

    def page(self, token: str | None) -> Page:
        """Return the entries after a token.

        Raises:
            FilterError: The mount does not take the filter.
        """
        try:
            answer = self.mount.query(
                self.condition,
                sort=self.sort,
                token=token,
                limit=_FILES_A_PAGE,
                attributes=True,
                at=self.at,
            )
        except ControlError as error:
            if error.errno == codes.EINVAL:
                raise FilterError(str(error)) from None
            raise
        found = (self._entry(file) for file in answer["files"])
        entries = [
            entry for entry in found if entry is not None and entry.key.startswith(self.prefix)
        ]
        told: dict[str, Any] = {name: answer[name] for name in _EXPLAINED}
        return Page(entries, answer["token"], told)

    def _entry(self, file: FoundReport) -> Entry | None:
        path = MemPath(self.top / file["path"])
        try:
            key = key_at(self.root, str(path.relative_to(self.root.path)))
        except ValueError:
            return None
        try:
            status = os.stat(path)
        except OSError:
            # It was removed since.
            return None
        if key is None or not stat.S_ISREG(status.st_mode):
            # A directory has metadata, too, and is no value.
            return None
        texts = {f"user.{name}": text.encode() for name, text in (file["attributes"] or {}).items()}
        # What a program writes just now has more bytes than when it was closed last.
        return Entry(key, path, metadata_of(texts), status.st_size, status.st_mtime)


def condition_of(metadata_filter: dict[str, Any], inner: str) -> dict[str, Any]:
    """Return the condition for files below a directory that a filter finds.

    Args:
        metadata_filter: As a caller gave it.
        inner: The directory, from the top of the mount.

    Raises:
        FilterError: The filter means nothing, and the message says where.
    """
    wanted = plain_filter(metadata_filter)
    try:
        # Here, so that a mistake is told with its place in the caller's own filter.
        parse(wanted)
    except InvalidValueError as error:
        raise FilterError(str(error)) from None
    return {"$and": [{"$path": f"/{escaped_glob(inner)}/"}, wanted]}
