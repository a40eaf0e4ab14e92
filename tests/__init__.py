"""The tests of memfs."""
