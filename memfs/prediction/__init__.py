"""Predictive caching: which files a program is about to open."""
