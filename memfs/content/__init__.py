"""A file's bytes while it lives: open handles, sealing, residency in RAM, reads from forms."""
