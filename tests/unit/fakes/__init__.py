"""Stand-ins that behave: small, in memory, without the rest of memfs."""
