"""The metadata engine on SQLite, embedded in the daemon."""
