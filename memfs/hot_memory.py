"""`HotMemory`, where programs look for it; it needs torch."""

from memfs.torch.hot_memory import HotMemory

__all__ = ["HotMemory"]
