"""Histories: what programs did on several mounts of one directory, and a judge of it."""
