"""`memfs node` on a real server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from memfs.exit_codes import ExitCode
from memfs.metadata.shared import node_table
from memfs_tools.main import run
from tests.contract.engine.postgres_site import STORE, MountDatabase
from tests.servers.process import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.postgresql import Database


@pytest.fixture
def mount(postgres: Database) -> Iterator[MountDatabase]:
    """A mount that `w` writes; `a` has all changes, `b` lacks two, `c` is behind."""
    made = MountDatabase(postgres)
    node_table.join(
        made.client, "the database", node_table.NodeRow(0, "w", bytes(16), 0, 0, "1"), ()
    )
    for at, name in enumerate("abc", 1):
        node_table.join_reader(made.client, "the database", name, bytes([at] * 16), "2")
    made.client.query("update node set seq = 7 where name = 'w'")
    made.client.query("update node set applied = 7 where name = 'a'")
    made.client.query("update node set applied = 5 where name = 'b'")
    made.client.query("update node set state = 'behind' where name = 'c'")
    made.client.query("insert into change values (1, 6, now() - interval '3 h', '')")
    yield made
    made.client.close()


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(["node", *arguments])
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return code, output.err


def test_nodes_are_told_to_people(
    capfd: pytest.CaptureFixture[str], mount: MountDatabase, postgres: Database
) -> None:
    """One after the other, and how far behind each is."""
    assert run(["node", "list", postgres.url]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "w: writes, 7 changes so far"
    assert lines[2] == "a: reads, live, has all changes"
    assert lines[4].startswith("b: reads, live, lacks 2 changes, the oldest of 3 h")
    assert lines[6] == "c: reads, behind"
    assert all(line.startswith("  heard of ") for line in lines[1::2])
    assert lines[3].endswith(" ago, epoch 0, memfs 2")


def test_names_that_are_on_their_way_are_told(
    capfd: pytest.CaptureFixture[str], mount: MountDatabase, postgres: Database
) -> None:
    """To the database, with the first epoch, or out of it."""
    for epoch, told in (
        (0, "w: its names are on their way to this"),
        (9, "w: has its names alone"),
    ):
        mount.client.query(
            "update node set state = 'behind', epoch = $1 where name = 'w'", (epoch,)
        )
        assert run(["node", "list", postgres.url]) == 0
        assert capfd.readouterr().out.startswith(told)


def test_nodes_are_told_to_programs_by_a_configuration(
    capfd: pytest.CaptureFixture[str], mount: MountDatabase, postgres: Database, tmp_path: Path
) -> None:
    """The one that the mount has."""
    config = tmp_path / "memfs.toml"
    config.write_text(f'[metadata]\nurl = "{postgres.url}"\n[glacier]\nurl = "{STORE}"\n')
    assert run(["node", "list", "-c", str(config), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [each["name"] for each in told] == ["w", "a", "b", "c"]
    assert told[2].keys() == {*node_table.NodeReport._fields}
    assert {**told[2], "heard_s": 0, "behind_s": 0} == {
        "name": "b",
        "role": "reader",
        "state": "live",
        "epoch": 0,
        "applied": 5,
        "behind_count": 2,
        "behind_s": 0,
        "heard_s": 0,
        "version": "2",
        "has_ended": False,
        "address": "",
    }


def test_a_mount_without_nodes_is_told(
    capfd: pytest.CaptureFixture[str], postgres: Database
) -> None:
    """It was formatted, and not mounted yet."""
    made = MountDatabase(postgres)
    made.client.close()
    assert run(["node", "list", postgres.url]) == 0
    assert capfd.readouterr().out.endswith(": no machine has mounted it yet\n")
    assert run(["node", "list", postgres.url, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == []


def test_wrong_calls_are_one_line_with_a_remedy(
    capfd: pytest.CaptureFixture[str], postgres: Database, tmp_path: Path
) -> None:
    """Nothing named, both, a mount of one machine, no server, and no mount."""
    config = tmp_path / "memfs.toml"
    config.write_text("")
    [port] = free_ports(1)
    for arguments, expected, reason in (
        ([], ExitCode.USAGE, "name the database by its URL, or else a configuration by -c"),
        ([postgres.url, "-c", str(config)], ExitCode.USAGE, "or else a configuration"),
        (["-c", str(config)], ExitCode.USAGE, "has no metadata.url"),
        ([f"postgresql://127.0.0.1:{port}/db"], ExitCode.NO_ANSWER, "see that the server runs"),
        ([postgres.url], ExitCode.USAGE, "has no mount: make one, by `memfs format"),
    ):
        code, line = refused(capfd, "list", *arguments)
        assert code == expected, arguments
        assert reason in line


def test_a_node_that_will_not_come_back_is_forgotten(
    capfd: pytest.CaptureFixture[str], mount: MountDatabase, postgres: Database
) -> None:
    """Changes are not kept for it, and another one may have its name."""
    mount.client.query("update node set beat = now() + interval '1 h' where name = 'b'")
    code, line = refused(capfd, "forget", "b", postgres.url)
    assert code == ExitCode.BUSY
    assert "node b is mounted: unmount it before" in line
    mount.client.query("update node set beat = now() - interval '1 min' where name in ('w', 'b')")
    for name in ("b", "c"):
        assert run(["node", "forget", name, postgres.url]) == 0
        assert capfd.readouterr().out.startswith(f"{name}: removed from postgresql://")
    states = [(node.name, node.state) for node in node_table.find_nodes(mount.client)]
    assert states == [("w", "live"), ("a", "live"), ("b", "left"), ("c", "left")]
    assert node_table.join_reader(mount.client, "the database", "b", b"o" * 16, "2").number == 5
    for name, reason in (("w", "node w writes"), ("c", "has no node c that reads"), ("x", "x")):
        code, line = refused(capfd, "forget", name, postgres.url)
        assert code == ExitCode.USAGE
        assert reason in line
