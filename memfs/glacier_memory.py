"""`GlacierMemory`, where programs look for it."""

from memfs.manager.tiers import GlacierMemory

__all__ = ["GlacierMemory"]
