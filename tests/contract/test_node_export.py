"""`memfs node export`: the shared tables as Parquet, as of one instant, whole or not at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from memfs.errors import DisconnectedError
from memfs.exit_codes import ExitCode
from memfs.metadata.shared.tables import TABLES
from memfs_tools import parquet_tables
from memfs_tools.main import run as run_command
from tests.contract.engine.everything import write_everything
from tests.contract.engine.postgres_site import MountDatabase
from tests.contract.engine.scene import Scene, send
from tests.contract.engine.tables import shared_tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from memfs.metadata.sqlite.statements import Row
    from tests.servers.postgresql import Database


@pytest.fixture
def scene(tmp_path: Path, postgres: Database) -> Iterator[Scene]:
    made = Scene(tmp_path, MountDatabase(postgres))
    write_everything(made.writer)
    send(made.writer)
    yield made
    made.writer.close()
    made.mount.client.close()


def rows_in(directory: Path, name: str) -> list[Row]:
    table = pq.read_table(directory / f"{name}.parquet")
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.parametrize("group_bytes", [32 << 20, 100])
def test_each_table_has_its_rows(
    scene: Scene,
    postgres: Database,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    group_bytes: int,
) -> None:
    monkeypatch.setattr(parquet_tables, "_GROUP_BYTES", group_bytes)
    monkeypatch.setattr("memfs.metadata.shared.instant.ROWS_A_STEP", 4)
    expected = shared_tables(scene.mount.client)
    there = tmp_path / "out" / "tables"
    there.mkdir(parents=True)
    assert run_command(["node", "export", "--json", str(there), postgres.url]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [path.name for path in there.parent.iterdir()] == ["tables"]
    assert {path.name for path in there.iterdir()} == {f"{each.name}.parquet" for each in TABLES}
    for table in TABLES:
        rows = rows_in(there, table.name)
        by_key = {table.key_of(row): row for row in rows}
        assert by_key == expected.rows[table.name]
        assert told["rows"][table.name] == len(rows) == len(by_key)
    groups = pq.ParquetFile(there / "inode.parquet").num_row_groups
    assert (groups == 1) == (group_bytes > 100)


def test_a_directory_with_files_is_refused(
    scene: Scene, postgres: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "out"
    there.mkdir()
    (there / "f").write_text("mine")
    for directory, words in ((there, "has files (f)"), (there / "a/b", "is no directory")):
        assert run_command(["node", "export", str(directory), postgres.url]) == ExitCode.USAGE
        assert words in capfd.readouterr().err
    assert [path.name for path in there.iterdir()] == ["f"]


def test_an_export_that_ends_early_leaves_nothing(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that goes away; and until the end nothing has the name that was asked for."""
    there = tmp_path / "out" / "tables"
    there.parent.mkdir()
    seen: list[str] = []

    def show(table: str, _count: int) -> None:
        assert not there.exists()
        [beside] = there.parent.iterdir()
        assert beside.name.startswith(".tables.")
        seen.append(table)
        if len(seen) == 3:
            raise DisconnectedError("gone")

    with pytest.raises(DisconnectedError):
        parquet_tables.write_tables(scene.mount.client, there, show)
    assert seen
    assert [*there.parent.iterdir()] == []
