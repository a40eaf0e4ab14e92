"""Datasets: a directory of tensor files, one file an item.

Invariant: an item is loaded in the process that asks for it; a dataset that is pickled or forked
carries paths and nothing that is open.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from memfs.control.client import ControlError
from memfs.torch.loading import load
from memfs.torch.tiers import prefetch

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    import torch

    from memfs.torch.tiers import PrefetchJob

log = logging.getLogger(__name__)

SLOW_S = 0.005
"""A file that takes longer is slow to come: a small one in the page cache takes 0.3 ms, and 1.7 ms
where a thread is handed it (measured, 2 cores). Guess between that and a store's answer."""

THREADS_MAX = 16
"""Limit of one batch; guess."""


class TensorDirectory(Dataset[Any]):
    """The tensor files below a directory, sorted by path.

    Args:
        root: On memfs or not.
        pattern: That of the files, as `pathlib.Path.glob` takes it.
        transform: Applied to the dictionary of each file; must pickle for workers that are spawned.
        device: Where items are; workers of a DataLoader return CPU tensors.
        lookahead: Files of a batch that are read at the same time, at most, where one is slow to
            come; 1: each after the other.
        slow_s: A file that takes longer is slow to come.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        pattern: str = "**/*.safetensors",
        transform: Callable[[dict[str, torch.Tensor]], Any] | None = None,
        device: str = "cpu",
        lookahead: int = 32,
        slow_s: float = SLOW_S,
    ) -> None:
        self.root = Path(root)
        self.paths = [str(path) for path in sorted(self.root.glob(pattern)) if path.is_file()]
        if not self.paths:
            raise FileNotFoundError(f"no file below {self.root} matches {pattern}")
        self.transform = transform
        self.device = device
        self.lookahead = lookahead
        self.slow_s = slow_s

    def __len__(self) -> int:
        """Return how many files there are."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        """Return the tensors of one file, transformed; a copy of the caller's own."""
        return self._transformed(self._load(index))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return several items, in order; a DataLoader asks for a batch by one call."""
        items: list[Any] = []
        for at, index in enumerate(indices):
            begin_s = time.monotonic()
            tensors = self._load(index)
            slow = time.monotonic() - begin_s > self.slow_s
            items.append(self._transformed(tensors))
            if slow and self.lookahead > 1 and len(indices) > len(items):
                return items + self._load_together(indices[at + 1 :])
        return items

    def _load_together(self, indices: Sequence[int]) -> list[Any]:
        """Load files that are slow to come: their waits overlap."""
        thread_count = min(self.lookahead, len(indices), THREADS_MAX)
        with ThreadPoolExecutor(thread_count, "memfs-batch") as threads:
            # Transforms are called by one thread, as everywhere: they may keep state.
            return [self._transformed(found) for found in threads.map(self._load, indices)]

    def _load(self, index: int) -> dict[str, torch.Tensor]:
        # Batches are sent between processes, and trained on: neither suits read-only memory.
        return load(self.paths[index], device=self.device, share=False)

    def _transformed(self, tensors: dict[str, torch.Tensor]) -> Any:
        return tensors if self.transform is None else self.transform(tensors)

    def hint(self, indices: Iterable[int]) -> PrefetchJob | None:
        """Tell memfs the order in which items will be used.

        Args:
            indices: A sampler, or a list.

        Returns:
            What is being fetched; None where memfs may not be told.
        """
        try:
            return prefetch([self.paths[index] for index in indices])
        except ControlError as error:
            log.warning("%s: no hints: %s", self.root, error)
            return None
