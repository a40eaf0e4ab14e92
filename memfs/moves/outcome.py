"""Outcomes: how a move ended that did not fail.

Invariant: a failure is an exception; an outcome is one of the ordinary cases.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class MoveOutcome(enum.Enum):
    """How a move ended."""

    DONE = "done"
    """The wanted form is published, or the unwanted one detached."""
    UNNEEDED = "unneeded"
    """It was so before."""
    SUPERSEDED = "superseded"
    """The file was rewritten, deleted or unsealed meanwhile; nothing changed."""
    BUSY = "busy"
    """A program has the file open or mapped; nothing changed."""
    SHARED = "shared"
    """Another file has the same form, and wants it where it is; nothing changed."""
    INCOMPRESSIBLE = "incompressible"
    """The packed form would not save a block of disk; the file stays raw."""


class MoveResult(NamedTuple):
    """A move's outcome, with what it wrote or freed."""

    outcome: MoveOutcome
    moved_bytes: int = 0
    """Stored bytes of the new form, or of the form that was dropped."""
