"""The moves between forms: pack, upload, hydrate, drop, and the removal of what is left over."""
