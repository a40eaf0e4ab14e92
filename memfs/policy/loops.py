"""Loops: tells reading in rounds over more than a tier holds from all other reading.

Invariant: bounded; it follows a sample of the keys, chosen by a hash of the key, so that the same
accesses always give the same answer.

Training reads every file once an epoch. Queues of recency then keep what was read last, which is
what comes back last: keeping any fixed set is better, and no policy is much better than that
(Mohan et al., "Analyzing and Mitigating Data Stalls in DNN Training", VLDB 2021). Such reading
shows in the distances between two reads of a key, measured in bytes read between them: they are
about the same for all keys. In order they are all one epoch. In an order shuffled for each epoch
they lie between 0 and 2 epochs, with a deviation of 0.41 epochs. Independent accesses of equally
popular keys deviate by their whole mean, skewed ones by more.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from math import sqrt

SAMPLED_COUNT_MAX = 4096
"""Keys followed at a time; some 0.8 MB."""

WINDOW_COUNT = 512
"""Accesses of sampled keys that are looked back on."""

DISTANCES_MIN = 64
"""So many distances must be known before a loop is told."""

VARIATION_MAX = 0.7
"""Deviation of the distances by their mean up to which they are a loop. An order shuffled for each
epoch has 0.58 at the start of its second epoch and 0.41 later; equally popular keys have 1."""

FRESH_WINDOW_COUNT = 32
"""The share of keys not seen before is averaged over about so many accesses of sampled keys."""

FRESH_SHARE_MAX = 0.5
"""More accesses than this to keys not seen before: no loop, whatever the other ones do."""

LAPS_A_CHECK = 1.25
"""What is held during a loop is judged by its hits after so many laps: in an order that repeats,
all of them come together, so that less than a lap says nothing."""

YIELD_MIN = 0.4
"""Share of the hits that a held set must have of those expected; else the pattern has ended."""

_HASH_BITS = 32
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 by the golden ratio: Fibonacci hashing (Knuth, TAOCP 3, 6.4)."""


def _hash(key: int) -> int:
    """Return a number in [0, 2^32) that depends on all bits of a key."""
    mixed = (key ^ key >> 31) * _GOLDEN & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 29) * _GOLDEN & 0xFFFFFFFFFFFFFFFF
    return mixed >> _HASH_BITS


class LoopDetector:
    """Watches all accesses to a tier.

    Args:
        capacity_bytes: Bytes of the tier; one that fits into it is no loop.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.looping = False
        """A loop larger than the tier is being read."""
        self.outdated = False
        """The last loop ended because other files are read, and not because they are read in
        another manner."""
        self._clock_bytes = 0
        """Bytes of all accesses so far."""
        self._last: OrderedDict[int, int] = OrderedDict()
        """When each sampled key was last accessed, by the clock; the longest ago first."""
        self._threshold = 1 << _HASH_BITS
        """Keys are sampled whose hash is below."""
        self._window: deque[int] = deque()
        """Distances of the last accesses of sampled keys; -1 for keys not seen before."""
        self._fresh_share = 1.0
        self._known_count = 0
        self._sum = 0.0
        self._square_sum = 0.0
        self._checked_bytes = 0
        self._hit_bytes = 0

    @property
    def sampled_count(self) -> int:
        """Keys that are followed now."""
        return len(self._last)

    @property
    def lap_bytes(self) -> float:
        """The length of the loop: the mean of the distances."""
        return self._sum / self._known_count if self._known_count else 0.0

    def access(self, key: int, size_bytes: int, *, hit: bool) -> None:
        """Count an access.

        Args:
            key: Any number.
            size_bytes: Bytes of the whole key.
            hit: It is in the tier.
        """
        if hit:
            self._hit_bytes += size_bytes
        if _hash(key) < self._threshold:
            before = self._last.pop(key, -1)
            self._note(self._clock_bytes - before if before >= 0 else -1)
            self._last[key] = self._clock_bytes
            if len(self._last) > SAMPLED_COUNT_MAX:
                self._thin_out()
            self._judge()
        self._clock_bytes += size_bytes

    def _note(self, distance_bytes: int) -> None:
        self._fresh_share += ((distance_bytes < 0) - self._fresh_share) / FRESH_WINDOW_COUNT
        self._add(distance_bytes, 1)
        self._window.append(distance_bytes)
        if len(self._window) > WINDOW_COUNT:
            self._add(self._window.popleft(), -1)

    def _add(self, distance_bytes: int, sign: int) -> None:
        if distance_bytes >= 0:
            self._known_count += sign
            self._sum += sign * float(distance_bytes)
            self._square_sum += sign * float(distance_bytes) ** 2

    def _thin_out(self) -> None:
        """Follow fewer keys: forget those of long ago, and sample half if that is not enough."""
        horizon_bytes = self._clock_bytes - max(16 * self.capacity_bytes, 4 * int(self.lap_bytes))
        while self._last and next(iter(self._last.values())) < horizon_bytes:
            self._last.popitem(last=False)
        if len(self._last) > SAMPLED_COUNT_MAX * 3 // 4:
            self._threshold //= 2
            for key in [key for key in self._last if _hash(key) >= self._threshold]:
                del self._last[key]
        else:
            self._threshold = min(1 << _HASH_BITS, self._threshold * 2)

    def _judge(self) -> None:
        """Tell whether this is a loop, from the last accesses of sampled keys."""
        if self.looping and not self._pays():
            # It has to prove itself anew, with distances that do not reach back.
            self._end(outdated=True)
            self._window.clear()
            self._known_count, self._sum, self._square_sum = 0, 0.0, 0.0
            return
        if self._fresh_share > FRESH_SHARE_MAX:
            self._end(outdated=True)
            return
        if self._known_count < DISTANCES_MIN:
            return
        lap_bytes = self.lap_bytes
        variance = max(0.0, self._square_sum / self._known_count - lap_bytes**2)
        if lap_bytes <= self.capacity_bytes or sqrt(variance) > VARIATION_MAX * lap_bytes:
            self._end(outdated=False)
        elif not self.looping:
            self.looping = True
            self._begin_check()

    def _end(self, *, outdated: bool) -> None:
        if self.looping:
            self.looping = False
            self.outdated = outdated

    def _begin_check(self) -> None:
        self._checked_bytes = self._clock_bytes
        self._hit_bytes = 0

    def _pays(self) -> bool:
        """Return False if what is held in a loop is not what the loop reads."""
        seen_bytes = self._clock_bytes - self._checked_bytes
        lap_bytes = self.lap_bytes
        if seen_bytes < LAPS_A_CHECK * lap_bytes:
            return True
        expected_bytes = seen_bytes * self.capacity_bytes / max(lap_bytes, self.capacity_bytes, 1)
        pays = self._hit_bytes >= YIELD_MIN * expected_bytes
        self._begin_check()
        return pays
