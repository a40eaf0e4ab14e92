"""Live screens: what a mount does, drawn anew while it does it."""
