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

from memfs.control.client import ControlError
from memfs.torch.mounts import by_mount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memfs.torch.mounts import TensorMount

log = logging.getLogger(__name__)

DONE_A_CALL = 16
DONE_S = 0.01
"""Files that were used are told of after so long, or as soon as there are so many: a call takes a
fraction of a millisecond, and what waits for their room should not wait for that."""

PATHS_A_CALL = 5000


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
        self._silent = False

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
        for mount, inner in self._by_mount(order).items():
            replace = mount in self._jobs
            for at in range(0, len(inner), PATHS_A_CALL):
                answer = self._call(
                    mount,
                    "prefetch",
                    paths=list(inner[at : at + PATHS_A_CALL]),
                    tier=self._tier,
                    job=self._jobs.get(mount),
                    replace=replace,
                    exact=True,
                )
                if answer is None:
                    return
                self._jobs[mount] = answer["job"]
                replace = False

    def _tell_done(self, indices: Sequence[int]) -> None:
        for mount, inner in self._by_mount(indices).items():
            self._call(mount, "done", paths=list(inner))

    def _by_mount(self, indices: Sequence[int]) -> dict[TensorMount, list[str]]:
        if self._silent or not indices:
            return {}
        return by_mount(self._paths[index] for index in indices)

    def _call(self, mount: TensorMount, method: str, **params: Any) -> Any:
        try:
            return mount.call(method, **params)
        except ControlError as error:
            self._silent = True
            log.warning("%s: the epoch goes on without hints: %s", mount.root, error)
            return None
