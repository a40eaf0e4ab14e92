"""`memfs fsck` on state directories of nodes, beside a real database."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from memfs.exit_codes import ExitCode
from memfs.fsck import node as fsck_node
from memfs.fsck.rows import DIFFERENCE_COUNT_MAX
from memfs.metadata.shared import node_table
from memfs.metadata.shared.applying import APPLIED_SETTING, Applying
from memfs.metadata.shared.tables import BY_NAME, TABLES
from memfs.metadata.sqlite import statements as sqlite
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.stores.raw import RawStore
from memfs.types import FormKind
from memfs_tools.main import run as run_command
from tests.contract.engine.making import NOW_NS, hydrate, make_file, make_sealed, names_in, publish
from tests.contract.engine.postgres_site import STORE, MountDatabase, drop_unsynced
from tests.contract.engine.scene import Scene, send
from tests.contract.engine.site import CONFIG, run
from tests.contract.engine.tables import assert_same, local_tables, shared_tables
from tests.servers.process import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.shared.engine import SharedEngine
    from memfs.metadata.shared.tables import SharedTable
    from memfs.types import InodeNo
    from tests.servers.postgresql import Database


class Fsck:
    """What the command says of the nodes of a mount.

    Args:
        scene: The mount.
        capfd: Has its output.
        url: That of its database.
    """

    def __init__(self, scene: Scene, capfd: pytest.CaptureFixture[str], url: str) -> None:
        self.scene = scene
        self._capfd = capfd
        self.config = scene.root / "memfs.toml"
        self.configure(url)

    def configure(self, url: str) -> None:
        """Name another database."""
        self.config.write_text(
            f'[metadata]\nurl = "{url}"\n[glacier]\nenabled = false\nurl = "{STORE}"\n'
        )

    def tell(self, name: str, *arguments: str) -> tuple[int, Any]:
        """Check a state directory; returns the exit code and what is told to programs."""
        self._capfd.readouterr()
        given = arguments or ("-c", str(self.config))
        code = run_command(["fsck", "--json", *given, str(self.scene.root / name)])
        output, problem = self._capfd.readouterr()
        assert output, problem
        return code, json.loads(output)

    def require_clean(self, name: str) -> list[str]:
        """See that nothing is wrong; returns what could not be compared."""
        code, told = self.tell(name)
        assert (code, told["problems"], told["is_answered"]) == (0, [], True)
        assert told["row_count"] > 10
        left_out: list[str] = told["left_out"]
        return left_out

    def require_left_out(self, name: str, words: str, expected: int = 0) -> None:
        """See that nothing is wrong, and that tables were not compared, for a reason."""
        code, told = self.tell(name)
        assert (code, told["problems"], told["row_count"]) == (expected, [], 0)
        assert any(words in sentence for sentence in told["left_out"]), told["left_out"]

    def problems(self, name: str) -> list[str]:
        """Return what is wrong, a sentence each."""
        code, told = self.tell(name)
        assert code == ExitCode.PROBLEMS
        assert all(each["remedy"] for each in told["problems"])
        return [f"{each['subject']}: {each['fault']}" for each in told["problems"]]


@pytest.fixture
def scene(tmp_path: Path, postgres: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(node_table, "SILENT_S", 0.0)
    made = Scene(tmp_path, MountDatabase(postgres))
    yield made
    made.writer.close()
    made.mount.client.close()


@pytest.fixture
def fsck(scene: Scene, capfd: pytest.CaptureFixture[str], postgres: Database) -> Fsck:
    return Fsck(scene, capfd, postgres.url)


def make_raw_files(engine: SqliteEngine, state_dir: Path) -> None:
    """Make the raw files that a node's tables have."""
    store = RawStore(state_dir)
    for raw, size in engine._rows("select raw, size from inode where raw <> 0"):
        os.close(store.create(raw))
        os.truncate(store.path(raw), size)
    store.close()


@pytest.fixture
def ino(scene: Scene) -> InodeNo:
    """A file with an object; there is a node `r` that has all, and both are unmounted."""
    ino = scene.fill()
    reader = scene.read("r")
    assert run(hydrate(reader, run(reader.get_inode(ino))))
    reader.commit_nowait()
    make_raw_files(reader, scene.root / "r")
    reader.close()
    make_raw_files(scene.writer, scene.root / "w")
    scene.writer.close()
    return ino


def abandon(engine: SharedEngine) -> None:
    """End a node that writes as if it was killed: nothing more is sent."""
    engine.writer.close()
    engine._is_closed = True
    SqliteEngine.close(engine)


def damage(scene: Scene, table: SharedTable) -> None:
    """Add a row to a shared table."""
    values = {"i": 77, "b": b"77", "t": "77", "u": b"77"}
    row = tuple(values[column.letter] for column in table.columns)
    scene.mount.client.query(table.insert_many, table.arrays_of([row]))


def test_what_is_whole_is_told_so_and_nothing_is_changed(
    fsck: Fsck, scene: Scene, ino: InodeNo
) -> None:
    everything = [*(table.name for table in TABLES), "node", "change", "mount"]

    def dump() -> list[Any]:
        return [scene.mount.client.query(f"select t::text from {name} as t") for name in everything]

    before = dump()
    for name in ("w", "r", "w", "r"):
        assert fsck.require_clean(name) == []
    assert dump() == before
    reader = scene.read("r")
    assert run(reader.get_inode(ino)).size == 700
    reader.close()
    writer = scene.write("w")
    send(writer)
    assert_same(local_tables(writer._rows), shared_tables(scene.mount.client))
    writer.close()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_row_too_many_is_told_of_each_table(
    fsck: Fsck, scene: Scene, ino: InodeNo, table: SharedTable
) -> None:
    damage(scene, table)
    expected = [f"table {table.name}, "]
    for name in ("w", "r"):
        if name == "r" and table.name in ("garbage", "setting"):
            # A reader does not have such rows.
            assert fsck.require_clean(name) == []
            continue
        found = fsck.problems(name)
        assert [each[: len(expected[0])] for each in found] == expected
        assert found[0].endswith(": the database has it, and this state directory has not")


def test_a_row_that_is_missing_or_different_is_told_with_its_columns(
    fsck: Fsck, scene: Scene, ino: InodeNo
) -> None:
    ask = scene.mount.client.query
    ask("update inode set size = 701, blocks = 9 where ino = $1", (ino,))
    ask("delete from xattr where ino = $1", (ino,))
    same = [
        f"table inode, ino {ino}: size is 700 here, and 701 in the database",
        f"table xattr, ino {ino}, name b'user.a': this state directory has it, and the database "
        "has not",
    ]
    # How many blocks a raw file takes is a reader's own.
    assert fsck.problems("r") == same
    with_blocks = "blocks is 2 here, and 9 in the database"
    assert fsck.problems("w") == [
        f"table inode, ino {ino}: size is 700 here, and 701 in the database; {with_blocks}",
        same[1],
    ]


def test_a_table_that_has_lost_all_is_told_in_some_sentences(
    fsck: Fsck, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memfs.metadata.shared.instant.ROWS_A_STEP", 7)
    for number in range(DIFFERENCE_COUNT_MAX + 5):
        run(make_file(scene.writer, b"f%d" % number))
    send(scene.writer)
    scene.writer.close()
    assert fsck.require_clean("w") == []
    scene.mount.client.query("delete from dentry")
    found = fsck.problems("w")
    assert len(found) == DIFFERENCE_COUNT_MAX + 1
    assert found[-1] == "table dentry: 5 more rows are different"


def test_a_reader_that_lags_is_compared_where_it_can_be(
    fsck: Fsck, scene: Scene, ino: InodeNo
) -> None:
    writer = scene.writer = scene.write("w")
    run(writer.set_xattr(ino, b"user.b", b"2", 0, NOW_NS))
    made = run(make_sealed(writer, b"late"))
    assert run(publish(writer, made, FormKind.REMOTE))
    send(writer)
    [lag] = fsck.require_clean("r")
    assert lag.startswith("this machine lacks ")
    assert " until its next mount: " in lag
    damage(scene, BY_NAME["blob"])
    assert [each[:19] for each in fsck.problems("r")] == ["table blob, blob 77"]


def test_changes_that_the_database_has_not_got_are_no_damage(
    fsck: Fsck, scene: Scene, ino: InodeNo
) -> None:
    writer = scene.write("w")
    made = run(make_sealed(writer, b"late"))
    writer.commit_nowait()
    make_late = RawStore(scene.root / "w")
    os.close(make_late.create(made.raw))
    os.truncate(make_late.path(made.raw), made.size)
    make_late.close()
    abandon(writer)
    for _ in range(2):
        [lag] = fsck.require_clean("w")
        assert lag.startswith("the database gets 1 change of this machine at its next mount: ")
    damage(scene, BY_NAME["blob"])
    assert [each[:19] for each in fsck.problems("w")] == ["table blob, blob 77"]
    scene.mount.client.query("delete from blob where blob = 77")
    # Nothing of it was lost by the look.
    writer = scene.write("w")
    send(writer)
    assert_same(local_tables(writer._rows), shared_tables(scene.mount.client))
    assert b"late" in run(names_in(writer))
    writer.close()


def test_changes_that_power_loss_has_taken_are_no_damage(
    fsck: Fsck, scene: Scene, ino: InodeNo
) -> None:
    writer = scene.write("w")
    writer.sync()
    durable = writer._database.durable_sequence
    run(make_file(writer, b"late"))
    send(writer)
    shutil.copytree(scene.root / "w", scene.root / "lost")
    abandon(writer)
    drop_unsynced(scene.root / "lost", durable)
    [lag] = fsck.require_clean("lost")
    assert lag.startswith("this machine has lost the last 1 change, as by a power failure, ")
    scene.mount.client.query("delete from change")
    [problem] = fsck.problems("lost")
    assert "is an older copy of the directory" in problem


def test_where_there_is_nothing_to_compare_that_is_said(
    fsck: Fsck, scene: Scene, ino: InodeNo, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = scene.mount.client.query
    ask("update node set state = 'behind' where role = 'reader'")
    fsck.require_left_out("r", "it was away for too long")
    ask("update node set state = 'live' where role = 'reader'")
    # It has never read all of it.
    shutil.copytree(scene.root / "r", scene.root / "half")
    half = Applying.open(scene.root / "half", CONFIG, shared=True)
    half._database.begin_change()
    half._write(sqlite.DELETE_SETTING, (APPLIED_SETTING,))
    half.commit_nowait()
    half.close()
    fsck.require_left_out("half", "had not copied all names yet")
    scene.writer = scene.write("w")
    run(make_file(scene.writer, b"late"))
    send(scene.writer)
    with monkeypatch.context() as patch:
        patch.setattr(fsck_node, "CHANGE_COUNT_MAX", 0)
        fsck.require_left_out("r", "1 change lie between")
    ask("delete from change")
    fsck.require_left_out("r", "is not kept in the database any more")
    ask("update node set seq = 0 where role = 'writer'")
    fsck.require_left_out("r", "the database was put back to an older state")
    ask("delete from node where role = 'reader'")
    fsck.require_left_out("r", "the database does not know this machine")


def test_a_directory_whose_mount_is_refused_is_told_as_such(
    fsck: Fsck, scene: Scene, ino: InodeNo
) -> None:
    """A former writer, copies, and databases that were put back."""
    shutil.copytree(scene.root / "r", scene.root / "copy")
    shutil.copytree(scene.root / "w", scene.root / "older")
    scene.read("r").close()
    scene.write("w").close()
    for name, words in (("copy", "mounted from a copy"), ("older", "writes in the place of")):
        [problem] = fsck.problems(name)
        assert words in problem
    scene.mount.client.query("update node set seq = seq - 1 where role = 'writer'")
    [problem] = fsck.problems("w")
    assert "which had confirmed" in problem
    scene.mount.client.query("update node set seq = seq + 1 where role = 'writer'")
    scene.promote("r", accept_loss=True)
    [problem] = fsck.problems("w")
    assert "node r: it writes in the place of this state directory" in problem
    heir = scene.write("r")
    send(heir)
    heir.close()
    # What was lost by the take-over is told, and nothing else.
    assert all("bytes" in each or "has no form" in each for each in fsck.problems("r"))
    [problem] = fsck.problems("w")
    assert problem.startswith("node r: ")


def test_without_a_database_the_rest_is_checked(fsck: Fsck, scene: Scene, ino: InodeNo) -> None:
    for name in ("w", "r"):
        for arguments, expected in ((("-o", "glacier.enabled=false"), 0), ((), 8)):
            [port] = free_ports(1)
            fsck.configure(f"postgresql://127.0.0.1:{port}/db")
            code, told = fsck.tell(name, *arguments)
            assert (code, told["problems"]) == (expected, [])
            assert told["is_answered"] == (expected == 0)
            assert "not compared with those of the database" in told["left_out"][0]
            assert told["file_count"] == 3
    raw = scene.root / "r" / "raw"
    [path] = [path for path in raw.rglob("*") if path.is_file()]
    path.unlink()
    code, told = fsck.tell("r", "-o", "glacier.enabled=false")
    [problem] = told["problems"]
    assert code == ExitCode.PROBLEMS
    assert problem["remedy"] == "the next mount reads its object"


def test_the_database_of_another_mount_is_refused(
    fsck: Fsck, scene: Scene, ino: InodeNo, capfd: pytest.CaptureFixture[str]
) -> None:
    scene.mount.client.query("update mount set mount_id = 'another'")
    for name in ("w", "r"):
        code = run_command(["fsck", "-c", str(fsck.config), str(scene.root / name)])
        assert code == ExitCode.STATE_UNUSABLE
        assert "belongs to a node of another mount" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("r", "--repair", "mount with a new directory by --state, which reads all names anew"),
        ("r", "--accept=f", "mount with a new directory by --state"),
        ("w", "--repair", "memfs node promote"),
        ("w", "--accept=f", "mount it, and write the file there"),
    ],
)
def test_a_node_is_not_changed(
    fsck: Fsck,
    scene: Scene,
    ino: InodeNo,
    capfd: pytest.CaptureFixture[str],
    name: str,
    option: str,
    words: str,
) -> None:
    state_dir = scene.root / name

    def content() -> dict[str, bytes]:
        paths = [path for path in state_dir.rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in paths if path.name != "lock"}

    before = content()
    code = run_command(["fsck", option, "-c", str(fsck.config), str(state_dir)])
    assert code == ExitCode.STATE_UNUSABLE
    assert words in capfd.readouterr().err
    assert content() == before


def test_a_node_without_its_file_is_told(
    fsck: Fsck, scene: Scene, ino: InodeNo, capfd: pytest.CaptureFixture[str]
) -> None:
    (scene.root / "w" / "node").write_bytes(b"x")
    assert run_command(["fsck", str(scene.root / "w")]) == ExitCode.STATE_UNUSABLE
    assert "cannot be read" in capfd.readouterr().err
    (scene.root / "w" / "node").unlink()
    assert run_command(["fsck", str(scene.root / "w")]) == ExitCode.STATE_UNUSABLE
    assert "is missing, which says what node this is" in capfd.readouterr().err


def test_people_are_told_in_sentences(
    fsck: Fsck, scene: Scene, ino: InodeNo, capfd: pytest.CaptureFixture[str]
) -> None:
    scene.mount.client.query("delete from batch")
    damage(scene, BY_NAME["batch"])
    state_dir = scene.root / "r"
    assert run_command(["fsck", "-c", str(fsck.config), str(state_dir)]) == ExitCode.PROBLEMS
    first, last = capfd.readouterr().out.splitlines()
    assert first == (
        "table batch, key '77': the database has it, and this state directory has not; name a new "
        "directory by --state: it reads all names anew"
    )
    assert last.startswith(f"{state_dir}: 1 problem; 3 files, ")
    assert last.endswith(" rows of the database checked")
