"""What fsck found: problems as data, for people and for programs.

Invariant: a problem names the thing, what is wrong with it, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class Problem(NamedTuple):
    """One thing that is not as it must be."""

    subject: str
    """Path of a file, or name of a part of the state directory."""
    fault: str
    """What is wrong, a phrase."""
    remedy: str
    """What to do about it, a phrase."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.fault}; {self.remedy}"


class Report(NamedTuple):
    """The outcome of a check."""

    problems: list[Problem]
    file_count: int
    """Regular files looked at."""
    form_count: int
    """Raw, packed and remote forms looked at."""
    verified_bytes: int
    """Stored bytes that were read and compared with their checksums."""
    left_over_count: int
    """Files of interrupted work, which the next mount removes by itself: no problem."""

    @property
    def clean(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems


Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the stage, and items done and in all (0: not known)."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Tell nobody."""
