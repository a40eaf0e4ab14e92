"""A state directory is served, created, or refused untouched."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from memfs.errors import MemfsError, UsageError
from memfs.metadata.sqlite import creation
from memfs.metadata.sqlite.engine import SqliteEngine
from memfs.metadata.sqlite.format import FORMAT_NUMBER
from memfs.types import ROOT_INODE
from tests.contract.engine.making import make_file, names_in
from tests.contract.engine.site import BIRTH_NS, CONFIG, SMALL, run

if TYPE_CHECKING:
    from pathlib import Path


def open_engine(state_dir: Path) -> SqliteEngine:
    return SqliteEngine.open(state_dir, CONFIG, BIRTH_NS, SMALL)


def test_fresh_directory_gets_a_root_and_a_format(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "some/state")
    root = run(engine.get_inode(ROOT_INODE))
    state_id = engine.state_id
    engine.close()
    assert stat.S_ISDIR(root.mode)
    assert (2, BIRTH_NS, os.geteuid()) == (root.nlink, root.mtime_ns, root.uid)
    content = json.loads((tmp_path / "some/state/format").read_text())
    assert content == {"format": FORMAT_NUMBER, "engine": "sqlite", "id": state_id.hex()}


def test_identity_stays_and_every_state_has_its_own(tmp_path: Path) -> None:
    identities = []
    for name in ("one", "one", "other"):
        engine = open_engine(tmp_path / name)
        identities.append(engine.state_id)
        engine.close()
    assert identities[0] == identities[1] != identities[2]
    assert len(identities[0]) == 16


@pytest.mark.parametrize("text", ['"00ff"', '"no hex"', "17"])
def test_damaged_identity_is_refused(tmp_path: Path, text: str) -> None:
    open_engine(tmp_path).close()
    (tmp_path / "format").write_text(
        f'{{"format": {FORMAT_NUMBER}, "engine": "sqlite", "id": {text}}}\n'
    )
    with pytest.raises(UsageError, match="no valid id"):
        open_engine(tmp_path)


def test_files_of_the_engine_are_for_their_owner_only(tmp_path: Path) -> None:
    engine = open_engine(tmp_path / "state")
    run(make_file(engine, b"secret name"))
    engine.commit_nowait()
    readable = [p.name for p in (tmp_path / "state").iterdir() if p.stat().st_mode & 0o077]
    engine.close()
    assert readable == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"format": 4, "engine": "sqlite"}', "format 4"),
        ('{"format": "1", "engine": "sqlite"}', "format '1'"),
        ('{"format": 1, "engine": "redis"}', "redis"),
        ('{"format": 3, "engine": "postgresql"}', "belongs to a node of a mount"),
        ("{}", "cannot be read"),
        ("[1]", "cannot be read"),
        ("", "cannot be read"),
        ("\xff\x00", "cannot be read"),
    ],
)
def test_other_format_is_refused_and_nothing_touched(
    tmp_path: Path, content: str, sentence: str
) -> None:
    (tmp_path / "format").write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=sentence):
        open_engine(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["format"]
    assert content == (tmp_path / "format").read_text(encoding="latin-1")


@pytest.mark.parametrize("missing", ["metadata.db", "ids"])
def test_missing_file_is_refused_and_not_made_anew(tmp_path: Path, missing: str) -> None:
    """An empty file system where there was a full one would orphan every raw file."""
    engine = open_engine(tmp_path)
    engine.close()
    (tmp_path / missing).unlink()
    with pytest.raises(UsageError, match=f"{missing} is missing"):
        open_engine(tmp_path)
    assert not (tmp_path / missing).exists()


def test_creation_that_was_killed_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_state_dir: Path, _state_id: bytes) -> None:
        raise MemfsError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(creation, "write_format", killed)
        with pytest.raises(MemfsError, match="killed"):
            open_engine(tmp_path)
    assert not (tmp_path / "format").exists()
    engine = open_engine(tmp_path)
    run(make_file(engine, b"file"))
    assert engine.check() == []
    engine.close()


def test_torn_lease_slot_falls_back_to_the_other(tmp_path: Path) -> None:
    """Power loss in the middle of a lease write must not lead to a number given twice."""
    engine = open_engine(tmp_path)
    first = engine.reserve_ids()[0]
    engine.close()
    content = bytearray((tmp_path / "ids").read_bytes())
    # The slots: what was written at opening, and the clean one of the close, torn here.
    turns = [int.from_bytes(content[slot : slot + 8], "little") for slot in (0, 512)]
    content[turns.index(max(turns)) * 512 + 20] ^= 1
    (tmp_path / "ids").write_bytes(content)
    engine = open_engine(tmp_path)
    assert engine.reserve_ids()[0] > first
    engine.close()


def test_damaged_lease_is_refused(tmp_path: Path) -> None:
    open_engine(tmp_path).close()
    (tmp_path / "ids").write_bytes(b"x" * 1024)
    with pytest.raises(UsageError, match="ids is damaged"):
        open_engine(tmp_path)


def test_close_twice_is_harmless_and_keeps_everything(tmp_path: Path) -> None:
    engine = open_engine(tmp_path)
    run(make_file(engine, b"file"))
    engine.close()
    engine.close()
    engine = open_engine(tmp_path)
    assert run(names_in(engine)) == [b"file"]
    engine.close()
