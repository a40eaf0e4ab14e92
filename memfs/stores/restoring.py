"""Restores: objects of archive classes are asked back once, however many want to read them.

Invariant: within a process one restore of an object is requested at a time; what was requested by
an earlier process is known to the provider, who is asked first.

Methods are called by the worker threads of a store and may block for a request or two.
"""

from __future__ import annotations

import contextlib
import enum
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from memfs.bounded import BoundedDict
from memfs.errors import ObjectArchivedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TICKET_COUNT_MAX = 10_000
"""Restores remembered, about 3 MB; of a forgotten one the provider is asked again."""

LOOK_PAUSE_S = 5.0
"""The provider is asked how far a restore is this often at most: programs may try again at once,
and the mover does at growing intervals. Guess."""

HOUR_S = 3600.0


_restoring = ContextVar("restoring", default=True)


@contextlib.contextmanager
def without_restores() -> Iterator[None]:
    """Have reads of archived objects within the block fail without restoring anything.

    For those who read to check or to tidy up: the restores of a whole store cost a fortune. Holds
    in the block's task and in the threads and tasks that it starts.
    """
    token = _restoring.set(False)
    try:
        yield
    finally:
        _restoring.reset(token)


class RestoreTier(enum.StrEnum):
    """How fast objects come back, and so at what cost."""

    BULK = "bulk"
    STANDARD = "standard"
    EXPEDITED = "expedited"

    @classmethod
    def of(cls, text: str) -> RestoreTier:
        """Return the tier that `glacier.restore_tier` names; `UsageError` if it names no tier."""
        try:
            return cls(text)
        except ValueError:
            known = ", ".join(tier.value for tier in cls)
            raise UsageError(f"glacier.restore_tier {text!r} is not one of {known}") from None


class RestoreState(enum.Enum):
    """How far an archived object is."""

    ARCHIVED = "archived"
    """Nobody has asked for it."""
    ONGOING = "ongoing"
    """It is being restored."""
    READABLE = "readable"


@dataclass(frozen=True, slots=True)
class ArchivedObject:
    """What a provider knows of an archived object."""

    state: RestoreState
    storage_class: str
    duration_s: float
    """How long a restore takes at most, as the provider's documentation says."""


class ArchiveProvider(Protocol):
    """A store with archive classes, by blocking calls."""

    def look(self, key: str) -> ArchivedObject:
        """Return how far an object is."""
        ...

    def request_restore(self, key: str, found: ArchivedObject) -> None:
        """Have an object restored; no error if that is under way."""
        ...


@dataclass(slots=True)
class _Ticket:
    """One restore, by what this process knows."""

    found: ArchivedObject | None = None
    """None: a thread is asking the provider right now."""
    requested_s: float | None = None
    """Wall clock; None: it was requested before this process began."""
    look_again_s: float = 0.0
    """Monotonic clock."""


class RestoreDesk:
    """Turns reads of archived objects into restores.

    Args:
        provider: Knows and restores the objects.
        tier: How fast.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        provider: ArchiveProvider,
        tier: RestoreTier,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._tier = tier
        self._clock = clock
        self._lock = threading.Lock()
        self._tickets: BoundedDict[str, _Ticket] = BoundedDict(TICKET_COUNT_MAX)

    def refuse(self, key: str, what: str) -> ObjectArchivedError | None:
        """Have an object restored whose read was refused because it is archived.

        Args:
            what: The refused call, for the message.

        Returns:
            The error to raise; None if the object has become readable meanwhile. See also
            `without_restores`.
        """
        if not _restoring.get():
            return ObjectArchivedError(f"{what}: the object is archived; nobody restores it", None)
        with self._lock:
            ticket = self._tickets.get(key)
            if ticket is not None and (ticket.found is None or self._clock() < ticket.look_again_s):
                return self._error(ticket, what)
            ticket = _Ticket(requested_s=ticket.requested_s if ticket is not None else None)
            self._tickets[key] = ticket
        try:
            found = self._provider.look(key)
            if found.state is RestoreState.ARCHIVED:
                self._provider.request_restore(key, found)
                ticket.requested_s = time.time()
        except BaseException:
            with self._lock:
                self._tickets.pop(key, None)
            raise
        with self._lock:
            if found.state is RestoreState.READABLE:
                self._tickets.pop(key, None)
                return None
            ticket.found = found
            ticket.look_again_s = self._clock() + LOOK_PAUSE_S
            return self._error(ticket, what)

    def _error(self, ticket: _Ticket, what: str) -> ObjectArchivedError:
        found = ticket.found
        if found is None:
            return ObjectArchivedError(
                f"{what}: the object is archived, and a restore is being requested; "
                "the file opens when that is done",
                None,
            )
        head = (
            f"{what}: the object is in storage class {found.storage_class}; its restore "
            f"({self._tier}) takes up to {found.duration_s / HOUR_S:.3g} h and was requested "
        )
        tail = "; the file opens when that is done"
        if ticket.requested_s is None:
            return ObjectArchivedError(f"{head}earlier{tail}", found.duration_s)
        ready_s = ticket.requested_s + found.duration_s
        return ObjectArchivedError(
            f"{head}at {_clock_time(ticket.requested_s)}, so it ends by {_clock_time(ready_s)}"
            f"{tail}",
            max(0.0, ready_s - time.time()),
        )


def _clock_time(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
