"""The hot server as a process of its own: what runs in it, and what watches over it."""
