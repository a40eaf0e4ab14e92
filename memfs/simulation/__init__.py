"""Replay of access traces through the real policy code, next to baselines and bounds."""
