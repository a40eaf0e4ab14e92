"""What fsck found: problems as data, for people and for programs.

Invariant: a problem names the thing, what is wrong with it, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from memfs.types import StateId


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


class Remedies(NamedTuple):
    """What to do about faults for which it depends on whose state directory it is; phrases."""

    metadata: str = "restore the state directory from a backup"
    """Tables that contradict themselves."""
    missing: str = "restore it from a backup, or remove it"
    """A raw file that is not there."""
    changed: str = (
        "the next mount reads another form of it, or else restore it with its times, or take it "
        "as it is: `memfs fsck --accept`"
    )
    """A raw file that is another one than the metadata tell."""
    resized: str = "take it as it is: `memfs fsck --accept`, or open it for writing once"
    """One of another size, perhaps by a crash."""
    unknown: str = (
        "its record may be what is lost: `memfs gc --orphans --yes` on the mount moves it to "
        "lost+found"
    )
    """A raw or packed file that nothing has."""


ALONE = Remedies()
"""Those of a state directory that shares its names with no other one."""


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
    row_count: int = 0
    """Rows that were compared with the database of a shared mount."""
    left_out: tuple[str, ...] = ()
    """What was not looked at, and why; sentences."""
    is_answered: bool = True
    """The database has answered, where it was to be asked."""

    @property
    def clean(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems


@dataclass
class NodeReport:
    """What was found out before files are looked at."""

    problems: list[Problem] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What was not compared or looked at, and why; sentences."""
    row_count: int = 0
    """Rows that were compared with the database."""
    is_answered: bool = True
    """The database has answered, or was not to be asked."""
    is_whole: bool = True
    """The tables here have what the mount had at one instant."""
    has_objects: bool = False
    """The store must have the objects that the tables here name."""
    knows_objects: bool = False
    """The tables here name all objects that the store must have."""
    has_times: bool = True
    """Raw files have the times of their files."""
    sealed_as: StateId | None = None
    """Identity under which objects are sealed; None: not known."""


Progress: TypeAlias = Callable[[str, int, int], None]
"""Told the stage, and items done and in all (0: not known)."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Tell nobody."""
