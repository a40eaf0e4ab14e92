"""`ColdMemory`, where programs look for it."""

from memfs.manager.tiers import ColdMemory

__all__ = ["ColdMemory"]
