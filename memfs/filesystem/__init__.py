"""The meaning of every request of a mounted file system."""
