"""Encryption: keys, where they come from, and the cipher of a container's frames."""
