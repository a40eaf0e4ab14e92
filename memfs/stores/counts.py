"""Counts: what a store was asked and how often it failed, since the daemon started.

Invariant: numbers only grow; an answer about one object, such as a missing one, is no failure.
"""

from __future__ import annotations

import contextlib
import enum
from collections import Counter
from typing import TYPE_CHECKING

from memfs.errors import ObjectArchivedError, ObjectChangedError, ObjectMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Call(enum.StrEnum):
    """A kind of request."""

    PUT = "put"
    GET = "get"
    STAT = "stat"
    LIST = "list"
    DELETE = "delete"
    ARCHIVE = "archive"


class StoreCounts:
    """What a store was asked."""

    def __init__(self) -> None:
        self.requests: Counter[Call] = Counter()
        """As a provider counts them; see `MeteredStore`."""
        self.errors: Counter[Call] = Counter()
        """Calls that failed, each attempt."""
        self.sent_bytes = 0
        self.received_bytes = 0

    @contextlib.contextmanager
    def watch(self, call: Call) -> Iterator[None]:
        """Count the failure that the block ends with, if it does."""
        try:
            yield
        except (ObjectMissingError, ObjectArchivedError, ObjectChangedError):
            raise
        except Exception:
            self.errors[call] += 1
            raise
