"""Exports: the metadata of a state beside its objects, and a new state made of them."""
