"""Policies of the Python API."""

from memfs.manager.policy import MigrationPolicy

__all__ = ["MigrationPolicy"]
