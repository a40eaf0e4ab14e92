"""Hinted sampling: the order of an epoch, told to memfs before it begins.

Invariant: the wrapped sampler's order is what comes out, with or without memfs.

A shuffled epoch is what caches are worst at and prefetching is best at: the order is known. Files
come `lookahead` before they are used, and make room when they have been (Dryden et al.,
"Clairvoyant prefetching for distributed machine learning I/O", SC 2021).
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from torch.utils.data import Sampler

from memfs.control.client import ControlError, ControlUnavailableError
from memfs.torch.mounts import PATHS_A_CALL, by_mount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memfs.torch.mounts import TensorMount

log = logging.getLogger(__name__)

DONE_A_CALL = 16
DONE_S = 0.01
"""Files that were used are told of after so long, or as soon as there are so many: a call takes a
fraction of a millisecond, and what waits for their room should not wait for that."""


class HintSampler(Sampler[int]):
    """Wraps a sampler.

    Args:
        sampler: Gives indices: a `RandomSampler` with a generator, a `DistributedSampler`, a list.
        paths: Of the items, by index: `TensorDirectory.paths`.
        behind: Items that were handed out and are not used yet: what the DataLoader has in flight
            (`num_workers * prefetch_factor * batch_size`). Files are called done after so many.
        tier: `warm` or `cold`: how near files are brought.
    """

    def __init__(
        self,
        sampler: Iterable[int],
        paths: Sequence[str],
        *,
        behind: int = 0,
        tier: str = "warm",
    ) -> None:
        self.sampler = sampler
        self._paths = paths
        self._behind = behind
        self._tier = tier
        self._jobs: dict[TensorMount, int] = {}
        self._untold: dict[TensorMount, list[str]] = {}
        """What comes last in an order and had no room in the daemon's list; by mount, reversed."""
        self._silent: set[TensorMount] = set()
        """Mounts that may not be told of this epoch."""
        self._warned = False

    def __len__(self) -> int:
        """Return the length of an epoch."""
        return len(self.sampler)  # type: ignore[arg-type]  # as sized as the sampler is

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to the wrapped sampler (`DistributedSampler.set_epoch`)."""
        setter: Any = getattr(self.sampler, "set_epoch", None)
        if setter is not None:
            setter(epoch)

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of one epoch, which memfs is told of before the first one."""
        order = list(self.sampler)
        self._publish(order)
        done: list[int] = []
        told_s = time.monotonic()
        for at, index in enumerate(order):
            yield index
            if at >= self._behind:
                done.append(order[at - self._behind])
            if len(done) >= DONE_A_CALL or (done and time.monotonic() > told_s + DONE_S):
                self._tell_done(done)
                done.clear()
                told_s = time.monotonic()
        self._tell_done(done + order[max(0, len(order) - self._behind) :])

    def _publish(self, order: Sequence[int]) -> None:
        # A daemon that was away in the last epoch may be back in this one.
        self._silent.clear()
        self._untold.clear()
        for mount, inner in self._by_mount(order).items():
            self._untold[mount] = inner[::-1]
            self._tell_coming(mount, replace=mount in self._jobs)

    def _tell_coming(self, mount: TensorMount, *, replace: bool = False) -> None:
        """Tell of as many files as the daemon's list has room for; the others are told of later."""
        untold = self._untold.get(mount)
        while untold:
            paths = untold[: -PATHS_A_CALL - 1 : -1]
            answer = self._prefetch(mount, paths, replace=replace)
            if answer is None:
                return
            self._jobs[mount] = answer["job"]
            del untold[len(untold) - answer["taken_count"] :]
            replace = False
            if answer["taken_count"] < len(paths):
                return

    def _prefetch(self, mount: TensorMount, paths: list[str], *, replace: bool) -> Any:
        params: dict[str, Any] = {"paths": list(paths), "tier": self._tier, "exact": True}
        job = self._jobs.pop(mount, None)
        if job is not None:
            try:
                return mount.call("prefetch", **params, job=job, replace=replace)
            except ControlUnavailableError as error:
                self._give_up(mount, error)
                return None
            except ControlError as error:
                # It remembers so many lists, and none from before it was started anew.
                log.debug("%s: a new list is begun: %s", mount.root, error)
        return self._call(mount, "prefetch", **params)

    def _tell_done(self, indices: Sequence[int]) -> None:
        for mount, inner in self._by_mount(indices).items():
            if self._call(mount, "done", paths=inner) is not None:
                self._tell_coming(mount)

    def _by_mount(self, indices: Sequence[int]) -> dict[TensorMount, list[str]]:
        found = by_mount(self._paths[index] for index in indices) if indices else {}
        return {mount: inner for mount, inner in found.items() if mount not in self._silent}

    def _call(self, mount: TensorMount, method: str, **params: Any) -> Any:
        try:
            return mount.call(method, **params)
        except ControlError as error:
            self._give_up(mount, error)
            return None

    def _give_up(self, mount: TensorMount, error: ControlError) -> None:
        """Go on without hints until the next epoch; said once."""
        self._silent.add(mount)
        self._untold.pop(mount, None)
        if not self._warned:
            self._warned = True
            log.warning("%s: the epoch goes on without hints: %s", mount.root, error)
