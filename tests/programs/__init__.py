"""Real programs on a mounted directory."""
