"""Stores: where bytes lie outside programs: raw and packed files, and remote objects."""
