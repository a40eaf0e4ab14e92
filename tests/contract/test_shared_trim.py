"""Changes stay in the database as long as a node that reads needs them."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import pytest

from memfs.metadata.shared import node_table
from memfs.metadata.shared.client import Client
from memfs.metadata.shared.engine import NodeSettings, SharedEngine
from memfs.metadata.shared.writer import LEAVE_BEHIND, TRIM
from tests.contract.engine.making import make_file
from tests.contract.engine.postgres_site import MountDatabase
from tests.contract.engine.site import CONFIG, SMALL, run
from tests.waiting import WAIT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.postgresql import Database

WRITER = node_table.NODE
HOUR_S = 3600.0


@pytest.fixture
def mount(postgres: Database) -> Iterator[MountDatabase]:
    """A mount with nodes `a` and `b`, which read, and ten changes."""
    made = MountDatabase(postgres)
    writer = node_table.NodeRow(0, "w", bytes(16), 0, 0, "1")
    node_table.join(made.client, "the database", writer, ())
    for at, name in enumerate("ab", 1):
        node_table.join_reader(made.client, "the database", name, bytes([at] * 16), "1")
    made.client.query("insert into change select 1, n, now(), '' from generate_series(1, 10) as n")
    made.client.query("update node set seq = 10 where role = 'writer'")
    yield made
    made.client.close()


def applied(mount: MountDatabase, **numbers: int) -> None:
    for name, number in numbers.items():
        mount.client.query(
            "update node set applied = $1, beat = now() where name = $2::text", (number, name)
        )


def trim(mount: MountDatabase, durable: int, oldest: int = 0) -> int:
    """Do as a group of the writer does; returns what all that read have applied."""
    answers = mount.client.transact_blocking(
        [(LEAVE_BEHIND, (oldest, HOUR_S)), (TRIM, (WRITER, durable))]
    )
    ((number,),) = answers[-1]
    return int(number)


def left(mount: MountDatabase) -> list[int]:
    return [seq for (seq,) in mount.client.query("select seq from change order by seq")]


def states(mount: MountDatabase) -> dict[str, str]:
    return {node.name: node.state for node in node_table.find_nodes(mount.client)}


def test_bodies_go_that_all_have(mount: MountDatabase) -> None:
    applied(mount, a=4, b=7)
    assert trim(mount, 10) == 4
    assert left(mount) == [5, 6, 7, 8, 9, 10]
    applied(mount, a=9)
    assert trim(mount, 6) == 7
    assert left(mount) == [7, 8, 9, 10]


def test_without_nodes_that_read_they_go_as_they_are_durable(mount: MountDatabase) -> None:
    mount.client.query("delete from node where role = 'reader'")
    assert trim(mount, 8) == 8
    assert left(mount) == [9, 10]


def test_node_that_is_not_heard_of_is_left_behind(mount: MountDatabase) -> None:
    """By the database's clock; the writer itself never is."""
    applied(mount, a=1, b=8)
    mount.client.query("update node set beat = now() - interval '59 min'")
    assert trim(mount, 10) == 1
    mount.client.query("update node set beat = now() - interval '61 min' where name <> 'b'")
    assert trim(mount, 10) == 8
    assert states(mount) == {"w": "live", "a": "behind", "b": "live"}
    assert left(mount) == [9, 10]


def test_node_that_lacks_too_many_is_left_behind(mount: MountDatabase) -> None:
    applied(mount, a=5, b=6)
    assert trim(mount, 10, oldest=6) == 6
    assert states(mount) == {"w": "live", "a": "behind", "b": "live"}


def test_row_that_somebody_holds_is_not_waited_for(mount: MountDatabase) -> None:
    """Programs wait for the group; the node is left behind by a later one."""
    applied(mount, a=1, b=8)
    mount.client.query("update node set beat = now() - interval '2 h' where name = 'a'")
    with contextlib.closing(Client.connect(mount.address, WAIT_S)) as other:
        other.query("begin")
        other.query("select from node where name = 'a' for update")
        assert trim(mount, 10) == 1
        other.query("rollback")
    assert trim(mount, 10) == 8


def test_node_that_comes_back_needs_changes_from_now_on(mount: MountDatabase) -> None:
    applied(mount, a=1, b=10)
    mount.client.query("update node set state = 'behind' where name = 'a'")
    assert trim(mount, 9) == 10
    node_table.join_reader(mount.client, "the database", "a", bytes([1] * 16), "1")
    mount.client.query("insert into change values (1, 11, now(), '')")
    applied(mount, b=11)
    assert trim(mount, 11) == 10
    assert left(mount) == [11]


def test_bodies_are_found_by_their_key(mount: MountDatabase) -> None:
    """There may be millions."""
    mount.client.query("analyze change")
    for text, parameters in ((TRIM, (WRITER, 3)), (LEAVE_BEHIND, (0, HOUR_S))):
        plan = "\n".join(row[0] for row in mount.client.query(f"explain {text}", parameters))
        assert not re.search("Seq Scan on change|Hash Join|Merge Join", plan), plan


def test_groups_of_a_node_do_so_by_its_configuration(postgres: Database, tmp_path: Path) -> None:
    """One node that reads was heard of an hour ago, and the other one just now."""
    mount = MountDatabase(postgres)
    settings = NodeSettings("w", WAIT_S, keep_changes_s=1800.0)
    engine = SharedEngine.join(tmp_path, CONFIG, mount.connector, settings, limits=SMALL)
    for at, name in enumerate("ab", 1):
        node_table.join_reader(mount.client, "the database", name, bytes([at] * 16), "1")
    mount.client.query("update node set beat = now() - interval '1 h' where name = 'a'")
    mount.client.query("update node set beat = now() + interval '1 h' where name = 'b'")
    for number in range(3):
        run(make_file(engine, b"%d" % number))
        engine.commit_nowait()
    engine._send_left()
    # The first group had nothing to remove yet.
    assert states(mount) == {"w": "live", "a": "behind", "b": "live"}
    assert left(mount) == [1, 2, 3]
    mount.client.query("update node set applied = 2 where name = 'b'")
    engine.sync()
    run(make_file(engine, b"last"))
    engine.commit_nowait()
    engine.writer._trimmed_s = float("-inf")
    engine._send_left()
    assert left(mount) == [3, 4]
    assert engine.writer.applied_by_readers == 2
    engine.close()
    mount.client.close()
