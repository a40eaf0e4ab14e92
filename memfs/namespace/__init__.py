"""Rules of POSIX names and permissions that need no storage."""
