"""Metadata: names, inodes and the whereabouts of contents."""
