"""`HotMemory`, where programs look for it; it needs torch."""

from memfs.manager.hot import HotMemory

__all__ = ["HotMemory"]
