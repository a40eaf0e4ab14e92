"""What `user.memfs.why` tells of a file as of a snapshot: which bytes these are, and for how long.

Invariant: it is read from where it is decided, as the answer for a live file is.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

from memfs.content.past import PastState
from memfs.errors import NotFoundError, StaleInodeError
from memfs.policy.retention import AUTOMATIC_LABEL
from memfs.types import FormKind, Tier

if TYPE_CHECKING:
    from memfs.content.past import PastContent, PastReader
    from memfs.metadata.engine import Engine
    from memfs.metadata.records import Inode, Snapshot

RULE = "snapshot"

_PLACES = {
    FormKind.RAW: "a plain file on this disk",
    FormKind.PACKED: "a packed file on this disk",
    FormKind.REMOTE: "an object in the store",
}


async def describe(
    engine: Engine, reader: PastReader, snapshot: Snapshot, inode: Inode
) -> dict[str, Any]:
    """Return why an inode is in a snapshot as it is.

    Args:
        engine: Knows the snapshots.
        reader: Finds the bytes.
        snapshot: One of them.
        inode: As of it.
    """
    answer: dict[str, Any] = {
        "rule": RULE,
        "snapshot": snapshot.name,
        "time_ns": snapshot.created_ns,
        "kept_until_ns": snapshot.kept_until_ns,
        "automatic": AUTOMATIC_LABEL in dict(snapshot.labels),
    }
    if not stat.S_ISREG(inode.mode):
        return answer | {"detail": "names and attributes of then"}
    content = await reader.find_of(inode)
    replaced = await reader.replaced(content.inode)
    if replaced is not None:
        content = content._replace(state=PastState.ABSENT)
    forms = await _forms(engine, content)
    is_now = content.is_shared and await _has_name(engine, inode)
    return answer | {
        "detail": replaced or _detail(content, forms, is_now=is_now),
        "generation": inode.generation,
        "state": content.state.value,
        "forms": [form.value for form in forms],
        "tier": _tier(forms).label,
        "now": is_now,
        "snapshots": await _showing(engine, inode),
    }


async def _forms(engine: Engine, content: PastContent) -> list[FormKind]:
    """Return what has the bytes, the nearest first."""
    if content.state is PastState.ABSENT:
        return []
    found = [FormKind.RAW] if content.inode.raw else []
    stored = {form.kind for form in await engine.list_all_forms(content.inode)}
    return [*found, *(kind for kind in (FormKind.PACKED, FormKind.REMOTE) if kind in stored)]


def _detail(content: PastContent, forms: list[FormKind], *, is_now: bool) -> str:
    number = content.inode.generation
    if content.state is PastState.ABSENT:
        return (
            f"the bytes of generation {number} were not kept: snapshots left them out "
            "(user.memfs.snapshot), or the file was open for writing and larger than "
            "snapshots.open_copy_max"
        )
    if not forms:
        return f"generation {number} has no bytes"
    places = " and ".join(_PLACES[form] for form in forms)
    owner = "the file has it still" if is_now else "only snapshots have it"
    told = f"generation {number} is in {places}; {owner}"
    if content.state is PastState.OPEN:
        told += "; a program had it open for writing, and may have changed it after the instant"
    return told


def _tier(forms: list[FormKind]) -> Tier:
    """Return how far away the bytes are: they are never fetched for good."""
    return Tier.GLACIER if forms == [FormKind.REMOTE] else Tier.COLD


async def _has_name(engine: Engine, inode: Inode) -> bool:
    try:
        return (await engine.get_inode(inode.ino)).nlink > 0
    except StaleInodeError:
        return False


async def _showing(engine: Engine, inode: Inode) -> list[str]:
    """Return the names of all snapshots that show the same bytes, oldest first."""
    names = []
    for each in await engine.list_snapshots():
        try:
            found = await engine.inode_at(each.snap, inode.ino)
        except (StaleInodeError, NotFoundError):
            continue
        if found.generation == inode.generation:
            names.append(each.name)
    return names
