"""Scores: how often each source of guesses is right, and which guesses are still open.

Invariant: every issued guess ends once, as a hit or as wasted, and the open ones are bounded.
Hints are counted beside them: a list that a user gave is never wrong, only not used.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from memfs.bounded import BoundedDict
from memfs.prediction.accesses import GUESSED, Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.types import InodeNo

PRECISION_START = 0.75
PRECISION_MIN = 0.5
"""Below it a source is stopped, but for probes."""

PROBE_EACH = 64
"""That of a stopped source one guess in so many is made, so that it can prove itself again."""

_WEIGHT = 1 / 16
"""That of the latest guess in the moving average: seven wrong ones in a row stop a new source."""

OPEN_COUNT_MAX = 4096
"""Guesses whose end is not known; beyond it the oldest counts as wasted. About 1 MB."""

WINDOW_ACCESSES = 4096
"""A guess that was not opened within so many accesses is wasted."""

WINDOW_NS = 600 * 1_000_000_000
"""Nor within so long: loading the shards of a large model takes minutes."""


@dataclass(slots=True)
class Score:
    """The account of one source."""

    issued_count: int = 0
    hit_count: int = 0
    wasted_count: int = 0
    precision: float = PRECISION_START
    """Moving average of hits among the guesses that ended; 0 to 1."""
    withheld_count: int = 0
    """Guesses that were not made since the source was stopped."""

    @property
    def stopped(self) -> bool:
        """True while the source is wrong too often."""
        return self.precision < PRECISION_MIN

    def allow(self) -> bool:
        """Return whether the next guess may be made."""
        if not self.stopped:
            return True
        self.withheld_count += 1
        return self.withheld_count % PROBE_EACH == 0

    def end(self, *, hit: bool) -> None:
        """A guess was right, or was not."""
        if hit:
            self.hit_count += 1
        else:
            self.wasted_count += 1
        self.precision += ((1.0 if hit else 0.0) - self.precision) * _WEIGHT


class _Open(NamedTuple):
    """A guess whose end is not known."""

    sources: int
    serial: int
    """Number of the access at which it was issued."""
    time_ns: int


class Scores:
    """The scores of all sources."""

    def __init__(self) -> None:
        self._scores = {source: Score() for source in GUESSED}
        self._scores[Source.HINT] = Score(precision=1.0)
        self._open: OrderedDict[InodeNo, _Open] = OrderedDict()
        self._hinted: BoundedDict[InodeNo, None] = BoundedDict(OPEN_COUNT_MAX)
        """The latest hints that were not followed yet."""
        self._wasted: list[InodeNo] = []
        self._serial = 0

    @property
    def by_source(self) -> Mapping[Source, Score]:
        """The account of each source."""
        return self._scores

    @property
    def open_count(self) -> int:
        """Guesses whose end is not known."""
        return len(self._open)

    def is_open(self, ino: InodeNo) -> bool:
        """Return whether a file is guessed and was not opened since."""
        return ino in self._open

    def allowed(self, sources: int) -> int:
        """Return those of some sources, as bits, that may make a guess now."""
        # Each is asked, so that each counts its own probes.
        found = 0
        for source in GUESSED:
            if source & sources and self._scores[source].allow():
                found |= source
        return found

    def issue(self, sources: int, ino: InodeNo, time_ns: int) -> bool:
        """Note a guess at a file that exists; False if no source of it is new."""
        earlier = self._open.get(ino)
        known = earlier.sources if earlier is not None else 0
        new = sources & ~known
        for source, score in self._scores.items():
            if source & new:
                score.issued_count += 1
        if new:
            self._open[ino] = _Open(known | new, self._serial, time_ns)
            self._open.move_to_end(ino)
            if len(self._open) > OPEN_COUNT_MAX:
                self._waste_oldest()
        return bool(new)

    def issue_hint(self, ino: InodeNo) -> None:
        """Note that a file is brought near because somebody said so."""
        self._scores[Source.HINT].issued_count += 1
        self._hinted[ino] = None

    def note_opened(self, ino: InodeNo, time_ns: int) -> bool:
        """A file was opened: what guessed it was right; returns whether it was hinted at."""
        self._serial += 1
        self.expire(time_ns)
        found = self._open.pop(ino, None)
        if found is not None:
            self._end(found, hit=True)
        hinted = ino in self._hinted
        if hinted:
            del self._hinted[ino]
            self._scores[Source.HINT].hit_count += 1
        return hinted

    def expire(self, time_ns: int) -> None:
        """End the guesses that came too early or were wrong."""
        while self._open:
            oldest = next(iter(self._open.values()))
            late = time_ns - oldest.time_ns > WINDOW_NS
            if not late and self._serial - oldest.serial <= WINDOW_ACCESSES:
                return
            self._waste_oldest()

    def take_wasted(self) -> list[InodeNo]:
        """Return and forget the files of wasted guesses; the latest `OPEN_COUNT_MAX` of them."""
        taken, self._wasted = self._wasted, []
        return taken

    def next_expiry_ns(self) -> int | None:
        """Return when the oldest open guess ends, wall clock; None if no guess is open."""
        for oldest in self._open.values():
            return oldest.time_ns + WINDOW_NS
        return None

    def _waste_oldest(self) -> None:
        ino, oldest = self._open.popitem(last=False)
        self._end(oldest, hit=False)
        if len(self._wasted) < OPEN_COUNT_MAX:
            self._wasted.append(ino)

    def _end(self, ended: _Open, *, hit: bool) -> None:
        for source, score in self._scores.items():
            if source & ended.sources:
                score.end(hit=hit)
