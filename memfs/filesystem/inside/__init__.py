"""Inside: the directory `.memfs` in the root of a mount, which no listing shows."""
