"""Values by key from Python: `MemoryManager` and what it is made of."""
