"""All methods of the control socket, by name."""

from __future__ import annotations

from typing import Any

from memfs.control.methods import (
    adoption,
    copies,
    mount,
    prefetching,
    queries,
    small_files,
    snapshots,
    trees,
    upkeep,
)
from memfs.control.methods.method import Method

_SUBJECTS = (adoption, copies, mount, prefetching, queries, small_files, snapshots, trees, upkeep)

METHODS: dict[str, Method[Any, Any]] = {
    value.name: value
    for subject in _SUBJECTS
    for value in vars(subject).values()
    if isinstance(value, Method)
}
"""All methods by name."""
