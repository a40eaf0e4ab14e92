"""Placement: which file belongs into which tier, and the loop that brings it there."""
