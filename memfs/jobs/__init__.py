"""Jobs: work that a command asks for, over files or trees, and that tells how far it is."""
