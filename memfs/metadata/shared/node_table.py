"""The table of nodes of a mount: which state directories take part, which writes, who takes over.

Invariant: one row has the role of the writer. A name belongs to one live node, and a state
directory to one row.
"""

from __future__ import annotations

import enum
import os
import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import DatabaseError, UsageError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared.node_file import Role
from memfs.metadata.shared.schema import TAKEN, TIMEOUT_S, find_mount
from memfs.metadata.shared.tables import stored_row
from memfs.metadata.shared.writer import EPOCH_STEP_MAX
from memfs.sizes import format_count
from memfs.types import ROOT_INODE

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from memfs.metadata.shared.client import Client
    from memfs.metadata.shared.statements import Statement
    from memfs.metadata.shared.tables import SharedTable
    from memfs.metadata.sqlite.statements import Row

NODE = 1
"""The number of the node that writes; others have higher ones."""

NAME_BYTES_MAX = 255
"""The longest name of a node."""

AWAY_S = 10.0
"""A node that was not heard of for so long is not mounted: it is heard of every second."""

SILENT_S = 15.0
"""A node that writes and was not heard of for so long may be replaced: it is heard of every five
seconds. One that lives on all the same changes nothing any more, whatever this time is."""

PATH_COUNT_MAX = 10
"""Paths of files that a message names."""

READ_LOG = "select seq, body from change where node = $1 and seq > $2 order by seq limit $3"
"""The bodies of a node's changes beyond a number, in order."""

READ_NODES = """
    select node, name, state_id, epoch, seq, version, role, applied, state from node order by node
"""
"""Rows of `NodeRow`."""
_INSERT_WRITER = """
    insert into node (node, name, state_id, role, epoch, state, seq, applied, beat, version)
    values ($1::bigint, $2::text, $3::bytea, 'writer', 0, 'live', 0, 0, now(), $4::text)
"""
_INSERT_READER = """
    insert into node (node, name, state_id, role, epoch, state, seq, applied, beat, version)
    select max(node) + 1, $1::text, $2::bytea, 'reader', 0, 'live', 0,
        max(seq) filter (where role = 'writer'), now(), $3::text
    from node
"""
_COME_BACK = """
    update node set name = $2::text, version = $3::text
    where node = $1::bigint and (name, version) <> ($2::text, $3::text)
"""
_APPEAR = """
    update node set address = $1::text, certificate = $2::bytea
    where node = $3::bigint and epoch = $4::bigint
"""
_HOLD_CHANGES = """
    update node set state = 'live', beat = now(),
        applied = (select seq from node where role = 'writer')
    where node = $1::bigint and state <> 'live'
"""
"""Who reads all tables from now on needs the changes beyond."""
_OFFER = """
    update node set epoch = epoch + $1::bigint, name = $2::text, state = 'left', address = null,
        certificate = null
    where role = 'writer' and epoch = $3::bigint
        and (state = 'left' or state = 'live'
            and (applied = epoch and epoch > 0 or beat < now() - $4 * interval '1 second'))
    returning node
"""
"""The epoch keeps the former writer from all further changes."""
_ONLY_THERE = """
    select i.ino, i.size, i.flags & 1 from inode as i
    where i.mode & 61440 = 32768 and i.nlink > 0 and (i.flags & 1 = 1 or i.size > 0 and not exists (
            select from form as f where f.blob = i.blob and i.blob <> 0) and not exists (
            select from foreign_object as o where o.ino = i.ino and o.generation = i.generation))
    order by i.ino
"""
"""Files whose bytes no store has: the node that writes alone, if anybody."""
_KEPT_THERE = """
    select count(*) from kept as k
    where (k.size > 0 or k.open = 1) and not exists (
            select from form as f where f.blob = k.blob and k.blob <> 0) and not exists (
            select from foreign_object as o where o.ino = k.ino and o.generation = k.generation)
"""
"""Likewise former contents, which snapshots have. No barrier uploads them."""
_LIST_NAMES = """
    select distinct on (d.ino) d.ino, d.parent, d.name from dentry as d
    where d.ino = any($1::bigint[]) order by d.ino, d.parent, d.cookie
"""
_FORGET = """
    update node set state = 'left' where name = $1::text and role = 'reader' and state <> 'left'
        and (state <> 'live' or beat < now() - $2 * interval '1 second')
    returning node
"""
_LIST_NODES = """
    select n.name, n.role, n.state, n.epoch,
        case n.role when 'writer' then n.seq else n.applied end,
        case n.role when 'writer' then 0 else w.seq - n.applied end,
        case when n.role = 'reader' and n.state = 'live' then (
            select extract(epoch from now() - c.at)::double precision from change as c
            where c.node = w.node and c.seq > n.applied order by c.seq limit 1) end,
        extract(epoch from now() - n.beat)::double precision, n.version,
        n.role = 'writer' and n.epoch > 0 and n.applied = n.epoch, coalesce(n.address, '')
    from node as n join node as w on w.role = 'writer'
    where n.role = 'writer' or n.state <> 'left' or n.name <> w.name or w.state <> 'live'
    order by n.node
"""
"""Without what a node was that has read and writes now."""

_ROWS_A_STATEMENT = 500

_ATTEMPT_COUNT_MAX = 10


class NodeState(enum.StrEnum):
    """How a node stands to the changes of the one that writes.

    `BEHIND` of that one itself: the tables have not just its rows. With epoch 0 these are on their
    way there (`moving_in`), else they have moved out.
    """

    LIVE = "live"
    """Those that it needs are kept."""
    BEHIND = "behind"
    """They may be gone: it has to read all tables again."""
    LEFT = "left"
    """Likewise, and it is not expected to come back."""


class NodeRow(NamedTuple):
    """A state directory that takes part in a mount."""

    number: int
    name: str
    state_id: bytes
    epoch: int
    seq: int
    """So many changes of its journal are in the tables."""
    version: str
    role: str = Role.WRITER
    """One of `Role`."""
    applied: int = 0
    """A reader needs no changes of the writer up to this one."""
    state: str = NodeState.LIVE
    """One of `NodeState`."""


class Presence(NamedTuple):
    """How other nodes find a node, and know it."""

    address: str | None = None
    """Where it listens: host and port; None: it does not."""
    certificate: bytes | None = None
    """What it shows, DER; None: it talks to no other node."""


class Loss(NamedTuple):
    """Files whose bytes no store has."""

    file_count: int
    size_bytes: int
    """Bytes of those that are closed."""
    open_count: int
    """Those that are being written, or were when their node ended."""
    paths: tuple[str, ...]
    """Those that lead to the first ones."""
    kept_count: int
    """Former contents of files that snapshots have."""


class NodeReport(NamedTuple):
    """How a node is doing, as of one instant, by the database's clock."""

    name: str
    role: str
    """One of `Role`."""
    state: str
    """One of `NodeState`."""
    epoch: int
    applied: int
    """Number of the last change of the writer that it has."""
    behind_count: int
    """Changes that it lacks."""
    behind_s: float | None
    """How old the oldest one is of these; None: it lacks no change, or they are not kept."""
    heard_s: float
    """Seconds since it was heard of last."""
    version: str
    """That of its memfs."""
    has_ended: bool
    """It writes, and has ended in order since it began last."""
    address: str
    """Where it answers other nodes, by TLS; empty: it does not."""


def find_nodes(client: Client) -> list[NodeRow]:
    """Return the nodes of a mount, in the order in which they came."""
    return [NodeRow._make(row) for row in client.query(READ_NODES)]


def find_writer(client: Client) -> NodeRow | None:
    """Return the node that writes; None: no state directory has taken part yet."""
    return next((node for node in find_nodes(client) if node.role == Role.WRITER), None)


def require_whole(database: str, writer: NodeRow | NodeReport) -> None:
    """See that the tables have what the node that writes has; its names may be on their way.

    Args:
        database: How messages name it, without secrets.
        writer: The node.

    Raises:
        UsageError: They have not.
    """
    if writer.state != NodeState.BEHIND:
        return
    if writer.epoch:
        raise UsageError(
            f"{database}: the names of node {writer.name} have moved out of it, to its state "
            "directory alone: mount that without metadata.url; no other node can read or write "
            "this database",
            ExitCode.STATE_UNUSABLE,
        )
    raise UsageError(
        f"{database}: the names of node {writer.name} are on their way there: run `memfs migrate` "
        "again, which goes on",
        ExitCode.STATE_UNUSABLE,
    )


def list_nodes(client: Client, database: str) -> list[NodeReport]:
    """Return how the nodes of a mount are doing.

    Args:
        client: Connected to it.
        database: How messages name it, without secrets.

    Raises:
        UsageError: It has no mount, or one of another format; or the user must not read it.
        DatabaseError, DisconnectedError: As of `Client.query`.
    """
    find_mount(client, database)
    return [NodeReport._make(row) for row in client.query(_LIST_NODES)]


def forget(client: Client, database: str, name: str) -> None:
    """Remove a node that reads: no changes are kept for it, and its name is free.

    Args:
        client: Connected to it.
        database: How messages name it, without secrets.
        name: That of the node.

    Raises:
        UsageError: There is no such node, it writes, or it is mounted.
        DatabaseError, DisconnectedError: As of `Client.query`.
    """
    nodes = [node for node in list_nodes(client, database) if node.name == name]
    if any(node.role == Role.WRITER for node in nodes):
        raise UsageError(f"{database}: node {name} writes, and is not removed")
    if client.query(_FORGET, (name, AWAY_S)):
        return
    if any(node.state == NodeState.LIVE for node in nodes):
        raise UsageError(f"{database}: node {name} is mounted: unmount it before", ExitCode.BUSY)
    raise UsageError(f"{database} has no node {name} that reads: see `memfs node list`")


def find_loss(client: Client) -> Loss:
    """Return the files of a mount whose bytes no store has: the node that writes has them alone."""
    client.query("set enable_seqscan = on")
    rows = client.query(_ONLY_THERE)
    ((kept_count,),) = client.query(_KEPT_THERE)
    client.query("set enable_seqscan = off")
    return Loss(
        len(rows),
        sum(size for _, size, is_open in rows if not is_open),
        sum(is_open for *_, is_open in rows),
        _paths(client, [ino for ino, *_ in rows[:PATH_COUNT_MAX]]),
        int(kept_count),
    )


def await_silence(client: Client, database: str, tell: Callable[[str], None]) -> None:
    """Return once the node that writes has ended in order, or was not heard of for `SILENT_S`.

    Blocks until then.

    Args:
        client: Connected to the mount's database.
        database: How messages name it, without secrets.
        tell: Told why it takes a while, in a sentence.

    Raises:
        UsageError: It is heard of again, or there is no such node.
        DatabaseError, DisconnectedError: As of `Client.query`.
    """
    for is_last in (False, True):
        writer = _writer_of(client, database)
        left_s = SILENT_S - writer.heard_s
        if writer.state != NodeState.LIVE or writer.has_ended or left_s < 0:
            return
        if not is_last:
            tell(f"{writer.name} was heard of {writer.heard_s:.0f} s ago: waiting {left_s:.0f} s")
            time.sleep(left_s + 0.1)
    raise UsageError(
        f"{database}: node {writer.name} writes, and is mounted: unmount it there first",
        ExitCode.BUSY,
    )


def promote(
    client: Client, database: str, name: str, *, accept_loss: bool, rng: random.Random
) -> Loss:
    """Have a node that reads write from its next mount on; the one that wrote changes nothing more.

    Args:
        client: Connected to the mount's database.
        database: How messages name it, without secrets.
        name: That of the node that reads.
        accept_loss: Also where files have their bytes on the former node alone.
        rng: Gives the epoch that shuts the former one out.

    Returns:
        The files that are lost by it.

    Raises:
        UsageError: There is no such node, the one that writes is mounted, or files would be lost;
            nothing was done.
        DatabaseError, DisconnectedError: As of `Client.query`.
    """
    writer = _writer_of(client, database)
    require_whole(database, writer)
    nodes = list_nodes(client, database)
    if not any(
        (node.name, node.role) == (name, Role.READER) and node.state != NodeState.LEFT
        for node in nodes
    ):
        if writer.name == name:
            raise UsageError(f"{database}: node {name} writes already")
        raise UsageError(
            f"{database} has no node {name} that reads: mount it there first, with "
            'role = "reader" in [nodes]; see `memfs node list`'
        )
    loss = find_loss(client)
    if loss.file_count and not accept_loss:
        left_count = loss.file_count - len(loss.paths)
        more = f" and {left_count} more" if left_count else ""
        raise UsageError(
            f"{database}: {format_count(loss.file_count, 'file')} would be lost, of which node "
            f"{writer.name} alone has the bytes ({', '.join(loss.paths)}{more}): mount it there "
            "and run `memfs barrier --level remote`; if that machine is gone for good, "
            "use --accept-loss",
            ExitCode.BUSY,
        )
    if loss.kept_count and not accept_loss:
        contents = format_count(loss.kept_count, "former content")
        raise UsageError(
            f"{database}: snapshots would lose {contents} of files, which node {writer.name} "
            "alone has, and no barrier uploads: copy from the snapshots there what you need, then "
            "use --accept-loss",
            ExitCode.BUSY,
        )
    # Beyond each epoch that a node was about to take, and has noted.
    step = EPOCH_STEP_MAX + rng.randint(1, EPOCH_STEP_MAX)
    if not client.query(_OFFER, (step, name, writer.epoch, SILENT_S)):
        raise UsageError(
            f"{database}: node {writer.name} writes, and was heard of {writer.heard_s:.0f} s ago: "
            "unmount it there first",
            ExitCode.BUSY,
        )
    return loss


def _writer_of(client: Client, database: str) -> NodeReport:
    for node in list_nodes(client, database):
        if node.role == Role.WRITER:
            return node
    raise UsageError(f"{database}: no node has written this mount yet")


def _paths(client: Client, inos: Sequence[int]) -> tuple[str, ...]:
    """Return paths in the mount that lead to inodes, one for each that has a name."""
    names: dict[int, tuple[int, bytes]] = {}
    wanted = {*inos}
    while wanted:
        found = client.query(_LIST_NAMES, ("{" + ",".join(map(str, wanted)) + "}",))
        names |= {ino: (parent, bytes(name)) for ino, parent, name in found}
        wanted = {parent for _, parent, _ in found} - {*names, ROOT_INODE}
    paths = []
    for ino in inos:
        parts: list[bytes] = []
        while ino in names and len(parts) < len(names):
            ino, name = names[ino]
            parts.append(name)
        if parts:
            paths.append(os.fsdecode(b"/".join(reversed(parts))))
    return tuple(paths)


def join(
    client: Client,
    database: str,
    node: NodeRow,
    rows: Iterable[tuple[SharedTable, Iterable[Row]]],
) -> NodeRow:
    """Have a state directory write in a mount, for the first time or again.

    Args:
        client: Connected to it.
        database: How messages name it, without secrets.
        node: The name, the state directory and the version of memfs; the rest is not read.
        rows: What the shared tables begin with where it takes part for the first time: rows of
            `SharedTable.select_local`, which have all changes of a journal that counts from now.

    Returns:
        The row of the node, as it was before the present mount.

    Raises:
        UsageError: Another state directory writes, this one reads, or the name is taken; or the
            names are on their way.
        DatabaseError, DisconnectedError: As of `Client.transact_blocking`; nothing was done.
    """
    check_name(node.name)
    nodes = find_nodes(client)
    _refuse_role(database, nodes, node.state_id, Role.WRITER)
    present = next((each for each in nodes if each.role == Role.WRITER), None)
    if present is None:
        insert = (_INSERT_WRITER, (NODE, node.name, node.state_id, node.version))
        try:
            client.transact_blocking([insert, *_fill(rows)], TIMEOUT_S)
        except DatabaseError as error:
            if error.sqlstate not in TAKEN:
                raise
        present = find_writer(client)
        assert present is not None, "just inserted, by us or by another process"
    if present.state_id != node.state_id:
        raise UsageError(
            f"{database} is written by node {present.name}, whose state directory is another one "
            f"(id {present.state_id.hex()}, here {node.state_id.hex()}): mount it with that one, "
            'or have this node read, by role = "reader" in [nodes]; one that reads can take over, '
            "by `memfs node promote`",
            ExitCode.STATE_IN_USE,
        )
    require_whole(database, present)
    return present


def join_reader(client: Client, database: str, name: str, state_id: bytes, version: str) -> NodeRow:
    """Have a state directory read in a mount, for the first time or again.

    From then on the changes are kept that it needs. If its row was not `NodeState.LIVE`, it needs
    those beyond the tables that it reads next.

    Args:
        client: Connected to it.
        database: How messages name it, without secrets.
        name: That of the node.
        state_id: That of the state directory.
        version: That of this memfs.

    Returns:
        The row of the node, as it was before the present mount.

    Raises:
        UsageError: No node has written yet, this state directory writes, or the name is taken.
        DatabaseError, DisconnectedError: As of `Client.transact_blocking`; nothing was done.
    """
    check_name(name)
    for _ in range(_ATTEMPT_COUNT_MAX):
        nodes = find_nodes(client)
        _refuse_role(database, nodes, state_id, Role.READER)
        writer = next((node for node in nodes if node.role == Role.WRITER), None)
        if writer is None:
            raise UsageError(
                f"{database} has no node that writes: mount it there first, and here once it has "
                "begun",
                ExitCode.NO_ANSWER,
            )
        require_whole(database, writer)
        if any(
            (node.name, node.state) == (name, NodeState.LIVE) and node.state_id != state_id
            for node in nodes
        ):
            raise _name_refusal(database, name)
        present = next((node for node in nodes if node.state_id == state_id), None)
        if present is not None:
            come_back(client, database, present, name, version)
            client.query(_HOLD_CHANGES, (present.number,))
            return present
        try:
            client.query(_INSERT_READER, (name, state_id, version))
        except DatabaseError as error:
            # Another node was faster.
            if error.sqlstate not in TAKEN:
                raise
    raise UsageError(f"{database}: other nodes come at the same time: try again")


def come_back(client: Client, database: str, present: NodeRow, name: str, version: str) -> None:
    """Note the name and the version with which a node is mounted again.

    Raises:
        UsageError: Another node has the name.
        DatabaseError, DisconnectedError: As of `Client.query`.
    """
    try:
        client.query(_COME_BACK, (present.number, name, version))
    except DatabaseError as error:
        if error.sqlstate not in TAKEN:
            raise
        raise _name_refusal(database, name) from None


def appear(node: int, epoch: int, presence: Presence) -> Statement:
    """Return the statement that tells the other nodes how to find a node.

    Args:
        node: Its number.
        epoch: Its present one; with another one nothing is told.
        presence: What they are told.
    """
    return _APPEAR, (*presence, node, epoch)


def check_name(name: str) -> None:
    """See that a text can be the name of a node; else `UsageError`."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < size <= NAME_BYTES_MAX or not name.isprintable():
        raise UsageError(
            f"nodes.name: {name[:NAME_BYTES_MAX]!r} cannot be the name of a node: write 1 to "
            f"{NAME_BYTES_MAX} bytes of printable text"
        )


def _refuse_role(database: str, nodes: Iterable[NodeRow], state_id: bytes, wanted: Role) -> None:
    """See that a state directory does not change its role."""
    for node in nodes:
        if node.state_id == state_id and node.role != wanted:
            does = "writes" if node.role == Role.WRITER else "reads"
            raise UsageError(
                f"{database}: this state directory is that of node {node.name}, which {does}: "
                f'write role = "{node.role}" in [nodes], or name another directory by --state',
                ExitCode.STATE_UNUSABLE,
            )


def _name_refusal(database: str, name: str) -> UsageError:
    return UsageError(
        f"{database}: another node has the name {name}: give this one another, by name in "
        "[nodes]; if it was this machine with a state directory that is lost, its name is free "
        "once it has not been heard of for nodes.keep_changes",
        ExitCode.STATE_IN_USE,
    )


def _fill(rows: Iterable[tuple[SharedTable, Iterable[Row]]]) -> Iterator[Statement]:
    for table, local in rows:
        stored = iter(map(stored_row, local))
        while some := list(islice(stored, _ROWS_A_STATEMENT)):
            yield table.insert_many, table.arrays_of(some)
