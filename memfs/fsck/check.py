"""fsck: the engine's own consistency, then its files against the stores.

Invariant: changes nothing but what opening the engine changes (its own recovery).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memfs.encryption.keys import NO_KEYS, KeyRing
from memfs.fsck.files import FileCheck
from memfs.fsck.report import ALONE, NodeReport, Problem, Progress, Remedies, Report, no_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memfs.content.sources import Sources
    from memfs.metadata.engine import Engine
    from memfs.stores.packed import PackedStore
    from memfs.stores.raw import RawStore
    from memfs.stores.store import RemoteStore


async def check(
    engine: Engine,
    raw_store: RawStore,
    packed_store: PackedStore,
    remote: RemoteStore | None,
    *,
    verify: bool = False,
    progress: Progress = no_progress,
    keys: KeyRing = NO_KEYS,
    stores: Sequence[str] = ("",),
    sources: Sources | None = None,
    node: NodeReport | None = None,
    remedies: Remedies = ALONE,
) -> Report:
    """Check a state directory that no daemon has mounted.

    Args:
        engine: Its engine, freshly opened.
        remote: Its object store; None leaves remote forms out.
        verify: Read packed and remote forms whole and compare with their checksums.
        progress: Told how far it is.
        keys: Those of encrypted forms, to verify them.
        stores: Names of the stores that `remote` stands for; that of the default one is empty.
        sources: Asked for the objects of adopted files, where `verify`; None: they are not.
        node: What is known of a node of a shared mount; None: it belongs to no such mount.
        remedies: What to do about what is here.

    Raises:
        StoreUnavailableError: The object store cannot be reached; nothing is said of its objects.
    """
    found = node or NodeReport(has_objects=True, knows_objects=True)
    if not found.is_whole:
        return Report(found.problems, 0, 0, 0, 0, 0, tuple(found.left_out), found.is_answered)
    progress("metadata", 0, 0)
    problems = [Problem("metadata", fault, remedies.metadata) for fault in engine.check()]
    files = FileCheck(
        engine,
        raw_store,
        packed_store,
        remote if found.has_objects else None,
        verify=verify,
        progress=progress,
        keys=keys,
        stores=stores,
        sources=sources,
        remedies=remedies,
        sealed_as=found.sealed_as,
        lists=found.knows_objects,
        has_times=found.has_times,
    )
    report = await files.run()
    return report._replace(
        problems=found.problems + problems + report.problems,
        row_count=found.row_count,
        left_out=tuple(found.left_out),
        is_answered=found.is_answered,
    )
