"""Prefetch: what programs open next is brought near before they ask."""
