"""Health: how an object store answered last, and since when.

Invariant: an answer about one object (missing, archived) shows that the store is well; only what
tells that nobody can be served counts as a failure.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from memfs.addresses import section_named
from memfs.errors import (
    MemfsError,
    ObjectArchivedError,
    ObjectMissingError,
    QuotaSpentError,
    StoreError,
)

if TYPE_CHECKING:
    from memfs.stores.store import RemoteStore

log = logging.getLogger(__name__)

LATELY_S = 30.0
"""A store that was well within this time is taken to be starting anew, and is waited for. Guess."""

ASKED_KEY = "memfs-probe/at-mount"
"""That of an object that nobody makes: the answer tells a bucket that is there from one that is
not."""


class StoreHealth:
    """What is known of a store.

    Args:
        name: That of a named one; empty: the default one.
    """

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._well_s = float("-inf")
        self._since_s = float("-inf")
        self.well: bool | None = None
        """None: it has not been asked yet."""
        self.reason: str | None = None
        """What it said last; None while it is well."""
        self._condemned = False

    @property
    def lasts_s(self) -> float | None:
        """Seconds since it has been so; None if it has not been asked yet."""
        return None if self.well is None else trio.current_time() - self._since_s

    @property
    def was_well_lately(self) -> bool:
        """True if it answered within `LATELY_S`."""
        return trio.current_time() - self._well_s < LATELY_S

    def note(self, error: MemfsError | None = None) -> None:
        """Take note of how a call ended.

        Args:
            error: What it raised; None: nothing.
        """
        if isinstance(error, QuotaSpentError) or not isinstance(error, StoreError | None):
            return
        if self._condemned:
            return
        if error is None or isinstance(error, ObjectMissingError | ObjectArchivedError):
            self._well_s = trio.current_time()
            self._become(well=True)
            self.reason = None
            return
        self._become(well=False)
        self.reason = section_named(self._name, str(error))

    def condemn(self, reason: str) -> None:
        """Take note that this mount may not use it any more, whatever it answers."""
        self._become(well=False)
        self.reason = reason
        self._condemned = True

    def _become(self, *, well: bool) -> None:
        if self.well is not well:
            self.well, self._since_s = well, trio.current_time()


async def ask_at_mount(store: RemoteStore, health: StoreHealth) -> None:
    """Ask a store once whether it can be used: a wrong key or bucket shows now, not at an upload.

    Its calls tell its health; what it fails with is logged here.
    """
    try:
        await store.stat(ASKED_KEY)
    except ObjectMissingError:
        pass
    except MemfsError as error:
        log.warning("the store does not serve: %s", error)
        return
    if health.well:
        log.info("store %s answers", store.url)
