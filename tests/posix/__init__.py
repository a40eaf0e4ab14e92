"""System calls on a mounted directory, each also run on a local one."""
