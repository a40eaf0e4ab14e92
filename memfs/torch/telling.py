"""Telling: a thread that tells the daemons of an epoch's order, and of what was used.

Invariant: a program that trains waits only at the end of an epoch; a daemon that may not be told
costs one attempt an epoch.
"""

from __future__ import annotations

import errno
import logging
import threading
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from memfs.control.client import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memfs.client.mount import Mount
    from memfs.control.methods.prefetching import HintTaken
    from memfs.torch.places import MountedFiles, Places

log = logging.getLogger(__name__)

FULL_A_CALL = 1000
"""While the daemon's list is full: calls are made for what was used, and few of these are taken."""

END_S_MAX = 60.0
"""At the end of an epoch the last call is waited for so long."""


@dataclass(frozen=True)
class TellRate:
    """How often daemons are told, and of how much."""

    files_a_call: int = 20_000
    """A call takes the daemon some 2 us a file, in slices."""
    urgent_s: float = 0.01
    """Pause between two calls while files wait for the room of those that were used."""
    calm_s: float = 0.25
    """Pause while nothing waits. Guess: the room of files used meanwhile is not missed for so
    long."""


TELL_RATE = TellRate()


class _Mounted:
    """One mount's part of an epoch."""

    def __init__(self, files: MountedFiles) -> None:
        self.mount = files.mount
        self.inos = files.inos
        self.positions = files.positions
        self.told_count = 0
        """Files, the first ones, that the daemon knows are coming."""
        self.done_count = 0
        """Files, the first ones, that it knows were used."""
        self.stalled = False
        """Files waited for room when it was last told."""
        self.full = False
        """Its list had no room for more: that is tried again when more was used."""
        self.silent = False
        """It may not be told this epoch."""

    @property
    def urgent(self) -> bool:
        """True if what is used should soon be told: files wait for its room."""
        return not self.silent and (self.stalled or self.told_count < len(self.inos))


class Teller:
    """Tells of one epoch.

    Args:
        places: Where the files are.
        order: Indices of files.
        jobs: The number of each mount's list, which outlives the epoch.
        tier: `warm` or `cold`.
        on_silence: Called with what keeps a mount from being told.
        rate: How often they are told.
    """

    def __init__(
        self,
        places: Places,
        order: Sequence[int],
        jobs: dict[Mount, int],
        tier: Literal["warm", "cold"],
        on_silence: Callable[[Mount, ControlError], None],
        rate: TellRate = TELL_RATE,
    ) -> None:
        self._places = places
        self._order = order
        self._jobs = jobs
        self._tier = tier
        self._on_silence = on_silence
        self._rate = rate
        self.used_count = 0
        """Files, the first ones, that are not used again; set by who trains."""
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="memfs-hints", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def end(self) -> None:
        """Tell what is left to be told, and wait for that."""
        self.stop()
        self._thread.join(END_S_MAX)

    def stop(self) -> None:
        """Tell only of what was used so far; returns at once."""
        self._ended = True
        self._wake.set()

    def _run(self) -> None:
        try:
            mounted = [_Mounted(files) for files in self._places.locate(self._order)]
            replaced = set(self._jobs)
            while True:
                # Before what was used is looked at: what was used by then is told.
                ended = self._ended
                for each in mounted:
                    self._tell(each, replaced)
                if ended or all(each.silent for each in mounted):
                    return
                urgent = any(each.urgent for each in mounted)
                self._wake.wait(self._rate.urgent_s if urgent else self._rate.calm_s)
        except Exception:
            # A defect: the epoch goes on without hints.
            log.exception("memfs cannot be told of this epoch")

    def _tell(self, each: _Mounted, replaced: set[Mount]) -> None:
        """Tell one daemon what is new."""
        used_count = bisect_right(each.positions, self.used_count - 1)
        files_a_call = self._rate.files_a_call
        while not each.silent:
            done = each.inos[each.done_count : min(used_count, each.done_count + files_a_call)]
            room_count = FULL_A_CALL if each.full else files_a_call - len(done)
            coming = each.inos[each.told_count : each.told_count + room_count]
            if not done and (each.full or not coming):
                return
            answer = self._call(each, done.tolist(), coming.tolist(), replaced)
            if answer is None:
                return
            each.done_count += len(done)
            each.told_count += answer["taken_count"]
            each.stalled = answer["stalled"]
            each.full = answer["taken_count"] < len(coming)

    def _call(
        self, each: _Mounted, done: list[int], coming: list[int], replaced: set[Mount]
    ) -> HintTaken | None:
        mount, tier = each.mount, self._tier
        job = self._jobs.pop(mount, None)
        replace = job is not None and mount in replaced
        try:
            try:
                answer = mount.hint(coming, done, tier, job, replace=replace)
            except ControlError as error:
                if job is None or error.errno != errno.ENOENT:
                    raise
                # It remembers so many lists, and no list from before it was started anew.
                log.debug("%s: a new list is begun: %s", mount.mountpoint, error)
                answer = mount.hint(coming, done, tier)
        except ControlError as error:
            each.silent = True
            self._on_silence(mount, error)
            return None
        replaced.discard(mount)
        self._jobs[mount] = answer["job"]
        return answer
