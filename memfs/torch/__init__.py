"""PyTorch tensors by path.

```python
import memfs.torch as mt

mt.pin("/mnt/data/model.safetensors")             # onto the GPU, and kept there
state = mt.load("/mnt/data/model.safetensors", device="cuda")
mt.load_model(model, "/mnt/data/model.safetensors")
mt.save({"w": tensor}, "/mnt/data/new.safetensors", tier="hot")

data = mt.TensorDirectory("/mnt/data/train")
sampler = mt.HintSampler(RandomSampler(data, generator=generator), data.paths)
```

All of it works on files anywhere; on a mount of memfs with a hot tier, `load` attaches to tensors
that are on the device already, and copies nothing.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401 - looked for, before a module of this package says less
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "memfs.torch and HotMemory need the package torch: pip install 'memfs-tiers[torch]'",
        name="torch",
    ) from None

from memfs.torch.datasets import TensorDirectory
from memfs.torch.errors import (
    DeviceUnavailableError,
    FormatError,
    HotTierFullError,
    LoadTimeoutError,
)
from memfs.torch.hinting import HintSampler
from memfs.torch.hot_memory import HotMemory, LayoutReport
from memfs.torch.lazy import LazyFile, TensorSlice, open
from memfs.torch.loading import LoadReport, load, load_model, report_of
from memfs.torch.saving import save
from memfs.torch.tiers import FileInfo, PrefetchJob, info, pin, prefetch, stats, unpin, wait_hot

__all__ = [
    "DeviceUnavailableError",
    "FileInfo",
    "FormatError",
    "HintSampler",
    "HotMemory",
    "HotTierFullError",
    "LayoutReport",
    "LazyFile",
    "LoadReport",
    "LoadTimeoutError",
    "PrefetchJob",
    "TensorDirectory",
    "TensorSlice",
    "info",
    "load",
    "load_model",
    "open",
    "pin",
    "prefetch",
    "report_of",
    "save",
    "stats",
    "unpin",
    "wait_hot",
]
