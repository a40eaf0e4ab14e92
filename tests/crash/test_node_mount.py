"""A mount whose names are in PostgreSQL as well: programs, outages of the server, kills."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from memfs.metadata.shared.tables import TABLES, stored_row
from tests import scratch
from tests.mounting import Mount, MountError, run_memfs
from tests.waiting import WAIT_S, join, wait_for
from tests.warm import FAULTS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.postgresql import Database, PostgresServer

pytestmark = pytest.mark.mount

LIMIT_S = 100
"""No wait ends by it, however busy the machine is."""
SHORT_LIMIT_S = 3

cut_off_soon = pytest.mark.parametrize("unmounted_node", [SHORT_LIMIT_S], indirect=True)

_PROGRAM = """
set -e
cd "$1"
mkdir -p src/deep/er && cd src
for n in 1 2 3 4 5 6 7 8; do echo "text $n" > "file-$n"; done
cp file-1 deep/copy && mv file-2 deep/er/moved && ln file-3 deep/hard && ln -s ../file-4 deep/soft
chmod 640 file-5 && touch -d 2001-02-03 file-6 && rm file-7 && truncate -s 100 file-8
mkdir gone && rmdir gone && mv deep/er other && echo more >> file-1
tar cf ../all.tar . && mkdir ../again && tar xf ../all.tar -C ../again
git init -q ../repo && cd ../repo && git config user.email a@b && git config user.name a
cp ../src/file-* . && git add . && git commit -qm first && git gc -q
"""


class NodeMount:
    """A mount of the kernel driver on a database of its own.

    Args:
        base: For it.
        database: Empty.
        limit_s: So long a change is waited for.
    """

    def __init__(self, base: Path, database: Database, limit_s: int) -> None:
        self.database = database
        (base / "objects").mkdir()
        store = f"file://{base}/objects"
        run_memfs("format", database.url, "--store", store)
        config = (
            f'[metadata]\nurl = "{database.url}"\n[nodes]\nname = "first"\n'
            f'commit_timeout = "{limit_s}s"\n[glacier]\nurl = "{store}"\n'
        )
        self.mount = Mount(base, "kernel", config, forked=True)
        self.root = self.mount.root

    @property
    def server(self) -> PostgresServer:
        return self.database.server

    def status(self) -> dict[str, object]:
        """Return what `memfs status` tells of the database."""
        report = json.loads(run_memfs("status", "--json", self.root))
        database: dict[str, object] = report["database"]
        return database

    def compare(self) -> None:
        """See that each shared table has the rows of the state directory, which nobody serves."""
        connection = sqlite3.connect(self.mount.state / "metadata.db")
        try:
            for table in TABLES:
                local = Counter(map(stored_row, connection.execute(table.select_local)))
                columns = self.database.execute(table.select_shared)
                assert local == Counter(columns), table.name
        finally:
            connection.close()


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Path]:
    """What daemons look at: a file with a fault point to be killed at, and at which time."""
    with pytest.MonkeyPatch.context() as patch:
        file = tmp_path / "armed"
        patch.setenv(FAULTS_VARIABLE, str(file))
        yield file


@pytest.fixture
def unmounted_node(
    request: pytest.FixtureRequest, scratch_area: scratch.Scratch, postgres: Database
) -> Iterator[NodeMount]:
    """It ends with the test, and may be mounted by then."""
    base = scratch_area.directory("node")
    made = NodeMount(base, postgres, getattr(request, "param", LIMIT_S))
    try:
        yield made
        made.mount.stop()
    finally:
        if not postgres.server.is_running:
            postgres.server.start()
        for pid in made.mount.daemon_pids():
            scratch.kill_and_wait(pid)
        scratch.remove(base)


@pytest.fixture
def node(unmounted_node: NodeMount) -> NodeMount:
    unmounted_node.mount.start()
    return unmounted_node


def _run_programs(root: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", _PROGRAM, "bash", root], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stderr


def test_programs_leave_the_same_names_in_both_places(node: NodeMount) -> None:
    _run_programs(node.root)
    assert (node.root / "again/deep/copy").read_text() == "text 1\n"
    node.mount.stop()
    node.mount.check_log()
    node.compare()
    # All of it is on stable storage here, and no other node needs it.
    assert node.database.execute("select count(*) from change") == [(0,)]
    before = (node.mount.state / "format").read_bytes()
    node.mount.fsck()
    with pytest.raises(MountError, match="have a machine that reads take over"):
        run_memfs("fsck", "--repair", node.mount.state)
    assert (node.mount.state / "format").read_bytes() == before
    node.mount.start()
    assert sorted(path.name for path in (node.root / "again").iterdir()) == sorted(
        path.name for path in (node.root / "src").iterdir()
    )
    status = node.status()
    assert (status["node"], status["connected"], status["cut_off_s"]) == ("first", True, None)
    metrics = run_memfs("metrics", node.root)
    assert "memfs_database_up{" in metrics
    run_memfs("health", node.root)


def test_a_short_outage_is_a_wait(node: NodeMount) -> None:
    failures: list[OSError] = []

    def work() -> None:
        try:
            for number in range(20):
                (node.root / f"{number}").mkdir()
        except OSError as error:
            failures.append(error)

    (node.root / "first").mkdir()
    node.server.stop(signal.SIGQUIT)
    thread = threading.Thread(target=work)
    thread.start()
    node.server.start()
    join(thread)
    assert failures == []
    node.mount.stop()
    node.compare()


@cut_off_soon
def test_cut_off_and_back(node: NodeMount) -> None:
    """Changes are refused in time, reads go on, and an end loses nothing of what was not sent."""
    (node.root / "file").write_text("text")
    node.server.stop(signal.SIGQUIT)
    with pytest.raises(OSError, match="Input/output error") as caught:
        (node.root / "followed").mkdir()
    assert caught.value.errno == errno.EIO
    wait_for(lambda: node.status()["cut_off_s"] is not None, node.status)
    with pytest.raises(OSError, match="Input/output error"):
        (node.root / "refused").mkdir()
    assert (node.root / "file").read_text() == "text"
    # It is in this node's journal.
    assert sorted(path.name for path in node.root.iterdir()) == ["file", "followed"]
    fd = os.open(node.root, os.O_RDONLY)
    with pytest.raises(OSError, match="Input/output error"):
        os.fsync(fd)
    os.close(fd)
    status = node.status()
    assert status["unconfirmed_count"]
    assert "connection" in str(status["reason"])
    assert "does not answer" in run_memfs("status", node.root)
    with pytest.raises(MountError, match="does not answer"):
        run_memfs("health", node.root)
    assert "has not answered" in run_memfs("why", node.root / "file")
    node.mount.stop()
    with pytest.raises(MountError, match="exit 8") as refused:
        node.mount.start()
    assert "no connection to postgresql://" in str(refused.value)
    node.server.start()
    node.mount.start()
    assert sorted(path.name for path in node.root.iterdir()) == ["file", "followed"]
    (node.root / "after").mkdir()
    node.mount.stop()
    node.compare()


@cut_off_soon
def test_back_without_a_new_mount(node: NodeMount) -> None:
    node.server.stop(signal.SIGQUIT)
    with pytest.raises(OSError, match="Input/output error"):
        (node.root / "followed").mkdir()
    node.server.start()
    wait_for(lambda: node.status()["cut_off_s"] is None, node.status)
    (node.root / "after").mkdir()
    node.mount.stop()
    node.compare()


class Load:
    """Makes directories until it is told to end, or refused.

    Args:
        root: Where.
        prefix: How their names begin.
    """

    def __init__(self, root: Path, prefix: str) -> None:
        self._root = root
        self._prefix = prefix
        self.made: list[str] = []
        """Names of those that it was told are there."""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            name = f"{self._prefix}-{len(self.made)}"
            try:
                (self._root / name).mkdir()
            except OSError:
                return
            self.made.append(name)

    def wait(self, count: int) -> None:
        """Return once it has made so many more."""
        enough = len(self.made) + count
        wait_for(lambda: len(self.made) >= enough, lambda: len(self.made))

    def end(self) -> None:
        """End it."""
        self._is_over.set()
        join(self._thread)


def test_killed_under_load_while_the_server_restarts(node: NodeMount) -> None:
    """What a program was told is there, and both places have the same."""
    for is_restarted in (False, True):
        load = Load(node.root, f"restarted-{is_restarted}")
        load.wait(20)
        if is_restarted:
            node.server.restart(signal.SIGQUIT)
            load.wait(5)
        node.mount.kill_daemon()
        load.end()
        node.mount.kill()
        node.mount.start()
        assert set(load.made) <= {path.name for path in node.root.iterdir()}
    node.mount.stop()
    node.compare()


def test_killed_at_each_fault_point(armed: Path, unmounted_node: NodeMount) -> None:
    """By SIGKILL, as `tests/crash/test_node_killed.py` plays it; power is not lost here."""
    node = unmounted_node
    made: list[str] = []
    for point in ("node.marked", "node.made", "node.taken"):
        armed.write_text(f"{point} 1")
        with pytest.raises(MountError):
            node.mount.start()
        armed.unlink()
        wait_for(lambda: not node.mount.daemon_pids(), "the daemon lives")
    node.mount.start()
    for point in ("node.sending", "node.confirmed"):
        armed.write_text(f"{point} 9")
        load = Load(node.root, point)
        wait_for(lambda: not node.mount.daemon_pids(), "the daemon lives")
        armed.unlink()
        node.mount.kill()
        load.end()
        made += load.made
        assert load.made
        node.mount.start()
        assert set(made) <= {path.name for path in node.root.iterdir()}
    node.mount.stop()
    node.compare()


def test_killed_while_a_file_is_uploaded_by_itself(armed: Path, unmounted_node: NodeMount) -> None:
    """The next daemon finds that it has no object, and uploads it; its local copy stays."""
    node = unmounted_node
    node.mount.start()
    armed.write_text("batch.verified 1")
    path = node.root / "file"
    path.write_text("text")
    wait_for(lambda: not node.mount.daemon_pids(), "the daemon lives")
    armed.unlink()
    node.mount.kill()
    node.mount.start()
    wait_for(lambda: os.getxattr(path, "user.memfs.state") == b"remote", "not uploaded")
    why = run_memfs("why", path)
    assert "upload: other nodes read its bytes" in why
    assert "tier     cold" in why
    assert path.read_text() == "text"
    node.mount.stop()
    node.compare()


_READER = """
    insert into node (node, name, state_id, role, epoch, state, seq, applied, beat, version)
    select 2, 'reader', '\\x00', 'reader', 0, 'live', 0, seq, now(), '' from node
"""


def test_objects_stay_until_nodes_that_read_know_that_nothing_refers_to_them(
    unmounted_node: NodeMount,
) -> None:
    """And `status` and `gc` tell of them; a daemon that is killed forgets no object."""
    node = unmounted_node
    node.mount.options = ("-o", "nodes.keep_objects=0")
    node.mount.start()
    path = node.root / "file"
    path.write_text("text")
    wait_for(lambda: os.getxattr(path, "user.memfs.state") == b"remote", "not uploaded")
    node.database.execute(_READER)
    path.unlink()
    wait_for(lambda: "1 kept while nodes that read" in run_memfs("status", node.root), "gone")
    node.mount.kill()
    node.mount.start()
    assert "1 objects stay while nodes that read" in run_memfs("gc", node.root)
    node.database.execute(
        "update node set applied = (select seq from node where role = 'writer') where node = 2"
    )

    def left() -> list[Path]:
        return [*(node.mount.base / "objects").glob("batches/*/*")]

    wait_for(lambda: not left(), left)


def test_a_second_state_directory_that_writes_is_refused(node: NodeMount) -> None:
    """The first one goes on; the other one has done nothing."""
    base = node.mount.base / "second"
    base.mkdir()
    second = Mount(base, "kernel", node.mount.config, forked=True)
    for _ in range(2):
        with pytest.raises(MountError, match=r"exit 4\n.*written by node first, whose state dir"):
            second.start()
    (node.root / "file").write_text("goes on")
    node.mount.stop()
    node.mount.check_log()
    node.compare()
