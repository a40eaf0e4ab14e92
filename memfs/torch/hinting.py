"""Hinted sampling: the order of an epoch, told to memfs before it begins.

Invariant: the wrapped sampler's order is what comes out, with or without memfs.

A shuffled epoch is what caches are worst at and prefetching is best at: the order is known. Files
come `lookahead` before they are used, and make room when they have been (Dryden et al.,
"Clairvoyant prefetching for distributed machine learning I/O", SC 2021).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import Sampler

from memfs.torch.places import Places
from memfs.torch.telling import TELL_RATE, Teller, TellRate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memfs.client.mount import Mount
    from memfs.control.client import ControlError

log = logging.getLogger(__name__)


class HintSampler(Sampler[int]):
    """Wraps a sampler.

    Args:
        sampler: Gives indices: a `RandomSampler` with a generator, a `DistributedSampler`, a list.
        paths: Those of the items, by index: `TensorDirectory.paths`.
        behind: Items that were handed out and are not used yet: what the DataLoader has in flight
            (`num_workers * prefetch_factor * batch_size`). Files are called done after so many.
        tier: `warm` or `cold`: how near files are brought.
        rate: How often memfs is told of what was used.
    """

    def __init__(
        self,
        sampler: Iterable[int],
        paths: Sequence[str],
        *,
        behind: int = 0,
        tier: Literal["warm", "cold"] = "warm",
        rate: TellRate = TELL_RATE,
    ) -> None:
        self.sampler = sampler
        self._places = Places(paths)
        self._behind = behind
        self._tier = tier
        self._rate = rate
        self._jobs: dict[Mount, int] = {}
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
        """Yield the indices of one epoch, which memfs is told of meanwhile."""
        order = list(self.sampler)
        teller = Teller(self._places, order, self._jobs, self._tier, self._note_silence, self._rate)
        teller.start()
        try:
            for at, index in enumerate(order):
                teller.used_count = at - self._behind
                yield index
        except BaseException:
            # Nobody asks for the rest: it is not used, and nobody waits for this.
            teller.stop()
            raise
        teller.used_count = len(order)
        teller.end()

    def _note_silence(self, mount: Mount, error: ControlError) -> None:
        """The epoch goes on without hints, and the next one tries again; said once."""
        if not self._warned:
            self._warned = True
            log.warning("%s: the epoch goes on without hints: %s", mount.mountpoint, error)
