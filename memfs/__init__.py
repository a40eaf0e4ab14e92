"""The library of memfs: `MemoryManager` and, by path, `memfs.torch`.

```python
from memfs import MemoryManager

memory = MemoryManager()
memory.store("experiments/7/weights", array, metadata={"loss": 0.12})
array = memory.retrieve("experiments/7/weights")
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memfs.manager.hot import HotMemory as HotMemory
    from memfs.manager.manager import MemoryManager as MemoryManager
    from memfs.manager.policy import MigrationPolicy as MigrationPolicy
    from memfs.manager.tiers import ColdMemory as ColdMemory
    from memfs.manager.tiers import GlacierMemory as GlacierMemory
    from memfs.manager.tiers import WarmMemory as WarmMemory

__version__ = "0.1.0"

_HOMES = {
    "MemoryManager": "memfs.manager.manager",
    "MigrationPolicy": "memfs.manager.policy",
    "HotMemory": "memfs.manager.hot",
    "WarmMemory": "memfs.manager.tiers",
    "ColdMemory": "memfs.manager.tiers",
    "GlacierMemory": "memfs.manager.tiers",
}
"""Where the names of the package are; imported when they are asked for, since the daemon and the
commands need not one of them."""


def __getattr__(name: str) -> object:
    """Return a name of the Python API (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'memfs' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the names of the Python API as well."""
    return sorted([*globals(), *_HOMES])
