"""Foresight: what prediction makes of a trace, by the same code that guesses in a mount.

Invariant: a guess counts as issued only if it names a file of the trace.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from memfs.prediction.accesses import Access
from memfs.prediction.predictor import Predictor
from memfs.traces.trace import Event
from memfs.types import InodeNo

if TYPE_CHECKING:
    from collections.abc import Callable

    from memfs.traces.trace import Trace

_PROGRESS_ROW_COUNT = 1 << 12
_ACCESS_NS = 1_000_000
"""Time between two accesses: traces need not have one. Guess."""


@dataclass(frozen=True, slots=True)
class Foresight:
    """What came of the guesses."""

    access_count: int
    foreseen_count: int
    """Accesses that were guessed before they came."""
    wasted_count: int
    """Guessed files that nobody asked for in time."""

    @property
    def precision(self) -> float:
        """Share of the guesses that were right; 1.0 if there was no guess."""
        ended_count = self.foreseen_count + self.wasted_count
        return self.foreseen_count / ended_count if ended_count else 1.0

    @property
    def foreseen_ratio(self) -> float:
        """Share of the accesses that were guessed before they came."""
        return self.foreseen_count / self.access_count

    @property
    def wasted_per_100(self) -> float:
        """Wrong guesses by a hundred accesses."""
        return 100 * self.wasted_count / self.access_count

    @property
    def conclusion(self) -> str:
        """What a user may take from it, as one sentence."""
        return (
            f"Prediction foresees {self.foreseen_ratio * 100:.1f} % of the accesses; "
            f"{self.precision * 100:.0f} % of its guesses are right, and "
            f"{self.wasted_per_100:.2f} per 100 accesses are wasted."
        )

    def to_json(self) -> dict[str, float]:
        """Return counts and ratios as JSON values."""
        return asdict(self) | {
            "precision": self.precision,
            "foreseen_ratio": self.foreseen_ratio,
            "wasted_per_100": self.wasted_per_100,
        }


class _Names:
    """The files of a trace by directory and name; their inodes are their keys, from 2 on."""

    def __init__(self, trace: Trace) -> None:
        directories: dict[str, InodeNo] = {}
        self.inodes: dict[tuple[InodeNo, bytes], InodeNo] = {}
        self.places: list[tuple[InodeNo, bytes]] = []
        """Directory and name by key."""
        for key, path in enumerate(trace.names):
            directory, _, name = path.rpartition("/")
            # Directories have numbers that no key has.
            number = InodeNo(len(trace.names) + 2 + len(directories))
            place = (directories.setdefault(directory, number), name.encode())
            self.places.append(place)
            self.inodes[place] = InodeNo(key + 2)

    def list(self, directory: InodeNo) -> list[bytes]:
        """Return the names in a directory, sorted."""
        return sorted(name for parent, name in self.places if parent == directory)


def foresee(trace: Trace, progress: Callable[[int, int], None]) -> Foresight:
    """Show a trace to a new predictor, as of one program, and count what it guesses.

    Args:
        trace: At least one access; the names of its keys are paths.
        progress: Called now and then with rows done and rows in all.
    """
    names = _Names(trace)
    predictor = Predictor()
    access_count = foreseen_count = wasted_count = 0
    for row, (event, key) in enumerate(zip(trace.events, trace.keys, strict=True)):
        if row % _PROGRESS_ROW_COUNT == 0:
            progress(row, len(trace))
        if event != Event.ACCESS:
            continue
        time_ns = row * _ACCESS_NS
        ino = InodeNo(key + 2)
        directory, name = names.places[key]
        access_count += 1
        foreseen_count += predictor.scores.is_open(ino)
        for guess in predictor.observe(Access(directory, name, ino, 0, 1, time_ns)):
            guessed = guess.ino or names.inodes.get((guess.directory, guess.name))
            if guessed is not None:
                predictor.scores.issue(guess.sources, guessed, time_ns)
        for wanted in predictor.take_listing_wanted():
            predictor.learn_listing(wanted, names.list(wanted), 0, time_ns)
        wasted_count += len(predictor.scores.take_wasted())
    progress(len(trace), len(trace))
    return Foresight(access_count, foreseen_count, wasted_count)
