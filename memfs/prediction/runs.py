"""Runs: positions that follow one another at an equal step.

Invariant: a run predicts no position twice, and no position further than `DEPTH_MAX` steps ahead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfs.prediction.names import NumberedName

DEPTH_MIN = 2
DEPTH_MAX = 8
"""Steps that a run looks ahead: begun with the least, doubled with every step that goes on. The
most costs eight files where a run ends."""


class Run:
    """Positions of one kind, in the order in which one program comes to them.

    Two equal steps make a run. From then on it bears gaps and late ones, as several threads that
    share the work make them.
    """

    __slots__ = ("_depth", "_last", "_reached", "_stride")

    def __init__(self, position: int) -> None:
        self._last = position
        self._stride = 0
        self._depth = 0
        """0: not a run yet."""
        self._reached = position
        """The furthest position that was predicted."""

    def advance(self, position: int) -> range:
        """Take the next position; returns those that are likely to follow and are new."""
        step = position - self._last
        if step == 0:
            return range(0)
        if self._depth and step % self._stride == 0:
            strides = step // self._stride
            if -DEPTH_MAX <= strides < 0:
                return range(0)
            if 0 < strides <= DEPTH_MAX:
                self._depth = min(DEPTH_MAX, self._depth * 2)
                return self._predict(position)
        if step == self._stride and not self._depth:
            self._depth = DEPTH_MIN
            self._reached = position
            return self._predict(position)
        self._last, self._stride, self._depth = position, step, 0
        return range(0)

    @property
    def going(self) -> bool:
        """True while positions follow one another."""
        return self._depth > 0

    def _predict(self, position: int) -> range:
        self._last = position
        ahead = max(0, (self._reached - position) // self._stride)
        first = position + (ahead + 1) * self._stride
        end = position + (self._depth + 1) * self._stride
        self._reached = max(position + ahead * self._stride, end - self._stride, key=self._order)
        return range(first, end, self._stride)

    def _order(self, position: int) -> int:
        return position if self._stride > 0 else -position


class Series:
    """Names of one template, of which one number counts."""

    __slots__ = ("_field", "_run", "_values")

    def __init__(self, name: NumberedName) -> None:
        self._values = _values(name)
        self._field = -1
        self._run: Run | None = None

    def advance(self, name: NumberedName) -> list[bytes]:
        """Take the next name of the template; returns those that are likely to follow."""
        before, self._values = self._values, _values(name)
        pairs = enumerate(zip(before, self._values, strict=True))
        changed = [index for index, (old, new) in pairs if old != new]
        if not changed:
            return []
        if len(changed) > 1:
            # A counter above the one that counts went on: `epoch_2_step_0` after `epoch_1_step_9`.
            self._run = None
            return []
        [field] = changed
        if self._run is None or field != self._field:
            self._field, self._run = field, Run(before[field])
        names = [name.replaced(field, value) for value in self._run.advance(self._values[field])]
        return [each for each in names if each is not None]

    @property
    def going(self) -> bool:
        """True while the names count."""
        return self._run is not None and self._run.going


def _values(name: NumberedName) -> tuple[int, ...]:
    return tuple(map(int, name.digits))
