"""`WarmMemory`, where programs look for it."""

from memfs.manager.tiers import WarmMemory

__all__ = ["WarmMemory"]
