"""All parts of `.memfs`, and which of them serves a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.content.past import PastReader
from memfs.filesystem.aliased import AliasedTree
from memfs.filesystem.inside.found import FIRST_QUESTION, FoundTree
from memfs.filesystem.inside.own import QUERY, SNAPSHOTS, OwnTree
from memfs.filesystem.inside.past import PastTree
from memfs.filesystem.mounted import MountedTree
from memfs.filesystem.nodes import OWN_SLOT, own_node, slot_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memfs.filesystem.filesystem import Filesystem
    from memfs.filesystem.inside.found import Ask
    from memfs.filesystem.inside.own import Producer
    from memfs.filesystem.inside.tree import Tree
    from memfs.filesystem.shared import Parts
    from memfs.types import InodeNo


_FIRST_QUESTION_NODE = own_node(FIRST_QUESTION)


class Inside:
    """`.memfs` of one mount.

    Args:
        parts: Those of the file system.
        files: What makes the content of each file in it, by name.
        ask: Answers questions.
    """

    def __init__(self, parts: Parts, files: Mapping[bytes, Producer], ask: Ask) -> None:
        now_ns = parts.clock.now_ns
        reader = PastReader(parts.engine, parts.raw_store, parts.sealer, parts.form_reader)
        self._past = PastTree(
            parts.engine, reader, parts.open_table, parts.invalidations.kernel_cache, now_ns
        )
        self._found = FoundTree(ask, now_ns)
        directories = {b"query": self._found.directory, b"snapshots": self._past.directory}
        self._own = OwnTree(files, directories, now_ns)

    def tree_of(self, node: InodeNo) -> Tree:
        """Return what serves a node, which may be one that nobody has."""
        if slot_of(node) != OWN_SLOT or node == SNAPSHOTS:
            return self._past
        if node == QUERY or node >= _FIRST_QUESTION_NODE:
            return self._found
        return self._own

    def mounted(self, live: Filesystem) -> MountedTree:
        """Return the file system with `.memfs` in its root."""
        made = AliasedTree if live.has_aliases else MountedTree
        return made(live, self.tree_of)

    async def note_deleted(self) -> None:
        """Snapshots were deleted: soon the kernel knows their names no longer."""
        await self._past.note_deleted()

    def close(self) -> None:
        """Close all files; idempotent."""
        self._past.close()
