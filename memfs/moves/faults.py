"""Fault points: the named instants of every move at which a crash test kills the process.

Invariant: `FAULT_POINTS` and the other tuples here name every point that the code reaches, and no
other; a test fails when one of them was never reached.
"""

from __future__ import annotations

FAULT_POINTS = (
    "pack.begun",
    "pack.written",
    "pack.verified",
    "pack.published",
    "upload.begun",
    "upload.prepared",
    "upload.stored",
    "upload.verified",
    "upload.published",
    "batch.begun",
    "batch.prepared",
    "batch.stored",
    "batch.verified",
    "batch.published",
    "compact.prepared",
    "compact.stored",
    "compact.verified",
    "compact.published",
    "rekey.prepared",
    "rekey.stored",
    "rekey.verified",
    "rekey.published",
    "relocate.prepared",
    "relocate.stored",
    "relocate.verified",
    "relocate.published",
    "rekey_packed.written",
    "rekey_packed.verified",
    "rekey_packed.published",
    "hydrate.begun",
    "hydrate.created",
    "hydrate.written",
    "hydrate.verified",
    "hydrate.published",
    "keep.created",
    "keep.written",
    "keep.recorded",
    "keep.synced",
    "copy.begun",
    "copy.created",
    "copy.written",
    "copy.published",
    "open.parted",
    "open.created",
    "open.written",
    "open.recorded",
    "cancel.recorded",
    "drop.seen",
    "drop_raw.detached",
    "drop_packed.detached",
    "drop_remote.detached",
    "garbage.synced",
    "garbage.removed",
    "garbage.cleared",
    "recover.rolled_back",
    "recover.swept",
    "damage.set_aside",
    "damage.detached",
    "done.dropped",
    "done.recorded",
    "generation.raised",
    "generation.written",
    "generation.stored",
)
"""Each point is named after what has just happened; in the order of the life of a move."""


REPAIR_POINTS = (
    "repair.copied",
    "repair.begun",
    "repair.identified",
    "repair.salvaged",
    "repair.log_removed",
    "repair.tables",
    "repair.lease",
    "repair.joined",
    "repair.mended",
    "repair.checked",
    "repair.moved",
)
"""That of `memfs fsck --repair`, in order."""


ACCEPT_POINTS = ("accept.accepted", "accept.synced")
"""That of `memfs fsck --accept`, in order; the first one after each file."""


MIGRATION_POINTS = (
    "migrate.begun",
    "migrate.rows",
    "migrate.changed",
    "migrate.marked",
    "migrate.committed",
    "migrate.durable",
    "migrate.first_journal",
    "migrate.ended",
)
"""That of a migration of the tables (`metadata.sqlite.migration`), in order."""


PUBLISH_POINTS = (
    "publishing.recorded",
    "publishing.begun",
    "publishing.piece",
    "publishing.sent",
    "publishing.stored",
    "publishing.verified",
    "publishing.published",
    "publishing.removed",
)
"""That of a published object (`moves.publishing`), in order; the third one after each MiB that was
read, and so between the parts of an upload."""


EXPORT_POINTS = (
    "export.begun",
    "export.published",
    "export.packed",
    "export.stored",
    "export.parts",
    "export.described",
    "export.done",
    "export.recorded",
    "export.forgotten",
    "export.pruned",
)
"""That of an export (`exports.exporter`), in order; two of them after each object."""


IMPORT_POINTS = (
    "import.begun",
    "import.part",
    "import.indexed",
    "import.written",
    "import.placed",
    "import.formatted",
    "import.marked",
    "import.taken",
)
"""That of an import and of the take-over after it (`exports.importing`), in order."""


TREE_POINTS = (
    "restore.kept",
    "restore.step",
    "clone.step",
    "clone.moved",
    "clone.removed",
)
"""That of restores and clones (`jobs.restoring`, `jobs.cloning`) beside the copies that they make;
three of them after each file."""


ADOPT_POINTS = (
    "adopt.added",
    "adopt.replaced",
    "adopt.page",
    "adopt.listed",
    "adopt.removed",
    "adopt.ended",
)
"""That of `memfs adopt` (`jobs.adopting`, `jobs.refreshing`); three of them again and again."""


LISTING_POINTS = ("list.page", "list.ended")
"""That of a directory that somebody looks into (`filesystem.demand_listing`); the first one after
each page."""


TAKE_POINTS = (
    "take.begun",
    "take.linked",
    "take.published",
    "take.removed",
    "release.made",
    "release.removed",
    "release.dropped",
)
"""That of `memfs adopt --move` and of `memfs release` (`jobs.taking`, `jobs.releasing`)."""


PUT_POINTS = ("put.written", "put.recorded", "put.synced")
"""That of small files that are made many at a time (`filesystem.small_files`), in order; the last
one where they are to be durable."""


NODE_POINTS = (
    "node.marked",
    "node.made",
    "node.taken",
    "node.redone",
    "node.caught_up",
    "node.sending",
    "node.confirmed",
)
"""That of a node of a shared mount: of its start (`metadata.shared.joining`), and of each group of
changes (`metadata.shared.writer`)."""


FILL_POINTS = ("fill.begun", "fill.emptied", "fill.step", "fill.done")
"""That of a node that reads, as it takes all tables of the mount (`metadata.shared.filling`); the
third one again and again, also before the second."""


PROMOTE_POINTS = (
    "promote.noted",
    "promote.taken",
    "promote.marked",
    "promote.changed",
    "promote.done",
)
"""That of a node that read and is to write (`metadata.shared.promoting`), in order."""


DEMOTE_POINTS = (
    "demote.moved",
    "demote.rescued",
    "demote.marked",
    "demote.emptied",
    "demote.done",
)
"""That of a node that wrote and is to read (`metadata.shared.demoting`), in order; the first one
after each file."""


READER_POINTS = ("reader.taken", "reader.fetched", "reader.applied")
"""That of a node that reads: of its start (`metadata.shared.reader_engine`), and of each round of
its log (`metadata.shared.log`)."""

PEER_POINTS = ("peer.asked", "peer.sent", "peer.received")
"""That of what a node reads from the one that writes: there (`content.lending`) when a file was
sealed because somebody asked and when a piece was read, and here (`peers.client`) when it has come;
the last two again and again."""


MOVE_IN_POINTS = (
    "move_in.registered",
    "move_in.removed",
    "move_in.step",
    "move_in.compared",
    "move_in.marked",
    "move_in.named",
    "move_in.counted",
    "move_in.done",
)
"""That of a mount of one machine whose names move into a database (`metadata.shared.moving_in`), in
order; the second one and the third one after each step."""


MOVE_OUT_POINTS = (
    "move_out.compared",
    "move_out.noted",
    "move_out.left",
    "move_out.identified",
    "move_out.uncounted",
    "move_out.unnamed",
    "move_out.done",
)
"""That of names that leave a database (`metadata.shared.moving_out`), in order."""


class FaultPoints:
    """Told of every point reached; does nothing. Crash tests pass one that kills the process."""

    def reach(self, point: str) -> None:
        """A move has come to `point`, one of those above."""
