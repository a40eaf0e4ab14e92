"""Pins on directories: in force below, now and later, until something nearer says otherwise."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from memfs.filesystem.control_names import INHERITED_XATTRS
from tests.posix.capabilities import Capability
from tests.processes import ALICE, run_as
from tests.tiers.tiering import (
    compressible,
    let_mover_look,
    pin,
    residence,
    tell,
    told,
    wait_until_at,
    why,
)
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.needs(Capability.MEMFS_XATTRS)]

CONTENT = compressible(50_000)


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    return path


def wait_until_warm(path: Path) -> None:
    wait_for(lambda: told(path, "tier") == "warm", lambda: (path, residence(path), why(path)))


def test_a_pin_is_in_force_on_all_below_now_and_later(place: Path) -> None:
    """Files that exist move; those made afterwards follow by themselves, at any depth."""
    now = [make(place / name) for name in ("a", "sub/b", "sub/deep/c")]
    pin(place, "glacier")
    wait_until_at("glacier", *now)
    later = [make(place / name) for name in ("d", "sub/e", "new/deep/f")]
    wait_until_at("glacier", *later)
    for path in now + later:
        assert told(path, "pin") == "glacier"
        assert os.listxattr(path) == []
        assert path.read_bytes() == CONTENT
    assert told(place / "new" / "deep", "tier") == "glacier"


def test_the_nearest_pin_wins(place: Path) -> None:
    """A file's own pin before its directory's, that before one further up."""
    own = make(place / "sub" / "own")
    near = make(place / "sub" / "near")
    far = make(place / "far")
    pin(own, "warm")
    pin(place / "sub", "cold")
    pin(place, "glacier")
    wait_until_at("cold", near)
    wait_until_at("glacier", far)
    wait_until_warm(own)
    assert [told(path, "pin") for path in (own, near, far)] == ["warm", "cold", "glacier"]


def test_unpinning_brings_the_next_pin_into_force(place: Path) -> None:
    """File, directory, directory above: each removal uncovers what lies beneath."""
    path = make(place / "sub" / "file")
    pin(place, "glacier")
    pin(place / "sub", "cold")
    pin(path, "warm")
    wait_until_warm(path)
    os.removexattr(path, "user.memfs.tier")
    wait_until_at("cold", path)
    os.removexattr(place / "sub", "user.memfs.tier")
    wait_until_at("glacier", path)
    os.removexattr(place, "user.memfs.tier")
    assert told(path, "pin") == "auto"
    let_mover_look(place / "witness")
    assert residence(path).forms == ["remote"]


def test_auto_on_a_directory_is_no_pin_of_its_own(place: Path) -> None:
    """`auto` unpins: what is pinned above stays in force."""
    path = make(place / "sub" / "file")
    pin(place, "glacier")
    pin(place / "sub", "auto")
    assert told(place / "sub", "pin") == "glacier"
    wait_until_at("glacier", path)


def test_a_file_that_is_renamed_comes_under_the_pin_of_its_new_place(place: Path) -> None:
    """It moves by itself, and so does what takes its place."""
    for tier in ("warm", "glacier"):
        (place / tier).mkdir()
        pin(place / tier, tier)
    path = make(place / "warm" / "file")
    wait_until_warm(path)
    path.rename(place / "glacier" / "file")
    wait_until_at("glacier", place / "glacier" / "file")
    (place / "glacier" / "file").rename(path)
    wait_until_warm(path)
    assert path.read_bytes() == CONTENT


def test_a_directory_that_is_renamed_takes_all_below_along(place: Path) -> None:
    """As with files; the pin of a directory of its own goes with it."""
    for tier in ("cold", "glacier"):
        (place / tier).mkdir()
        pin(place / tier, tier)
    files = [make(place / "cold" / "tree" / name) for name in ("a", "sub/b")]
    kept = make(place / "cold" / "tree" / "pinned" / "c")
    pin(kept.parent, "warm")
    wait_until_at("cold", *files)
    wait_until_warm(kept)
    (place / "cold" / "tree").rename(place / "glacier" / "tree")
    wait_until_at("glacier", *(place / "glacier" / "tree" / name for name in ("a", "sub/b")))
    moved = place / "glacier" / "tree" / "pinned" / "c"
    assert told(moved, "pin") == "warm"
    wait_until_warm(moved)


def test_a_file_that_replaces_another_brings_its_own_pin(place: Path) -> None:
    """What editors and rsync do: write beside, rename over. A pin is of the file, not the name."""
    old = make(place / "file")
    pin(old, "glacier")
    wait_until_at("glacier", old)
    make(place / "file.new").rename(old)
    assert told(old, "pin") == "auto"
    assert old.read_bytes() == CONTENT


def test_hard_links_are_one_file_with_one_pin(place: Path) -> None:
    """A pin set through one name is seen, and acts, through all."""
    path = make(place / "a" / "file")
    (place / "b").mkdir()
    os.link(path, place / "b" / "link")
    pin(path, "glacier")
    assert told(place / "b" / "link", "pin") == "glacier"
    wait_until_at("glacier", place / "b" / "link")
    path.unlink()
    assert told(place / "b" / "link", "pin") == "glacier"
    assert (place / "b" / "link").read_bytes() == CONTENT


def test_a_link_keeps_a_pin_of_one_of_its_directories(place: Path) -> None:
    """A file with names under two pins is under one of them, and settles there."""
    path = make(place / "cold" / "file")
    (place / "glacier").mkdir()
    link = place / "glacier" / "link"
    os.link(path, link)
    pin(place / "cold", "cold")
    pin(place / "glacier", "glacier")
    in_force = told(path, "pin")
    assert in_force in ("cold", "glacier")
    assert told(link, "pin") == in_force
    wait_until_at(in_force, path)
    let_mover_look(place / "witness")
    (path if in_force == "cold" else link).unlink()
    left = link if in_force == "cold" else path
    other = "glacier" if in_force == "cold" else "cold"
    assert told(left, "pin") == other
    wait_until_at(other, left)
    assert left.read_bytes() == CONTENT


def test_codecs_are_inherited_as_pins_are(place: Path) -> None:
    """The nearest one wins; removing it uncovers the next."""
    path = make(place / "sub" / "file")
    tell(place, "codec", "lz4")
    assert told(path, "codec") == "lz4"
    tell(place / "sub", "codec", "snappy")
    assert told(path, "codec") == "snappy"
    tell(path, "codec", "zstd:9")
    assert told(path, "codec") == "zstd:9"
    os.removexattr(path, "user.memfs.codec")
    assert told(path, "codec") == "snappy"


@pytest.mark.any_driver
def test_a_pin_reaches_many_files(place: Path) -> None:
    """More than the mover takes in one round."""
    files = [make(place / f"{number % 7}" / f"{number}") for number in range(700)]
    pin(place, "glacier")
    wait_until_at("glacier", *files)
    assert all(path.read_bytes() == CONTENT for path in files[::50])


ATTRIBUTES = {"tier": "cold", "codec": "lz4", "priority": "7"}


def test_rsync_takes_no_pin_away_and_spreads_none(place: Path, tmp_path: Path) -> None:
    """`-X` removes what the source lacks, and brings what it lists."""
    source, target, back = tmp_path / "source", place / "target", place / "back"
    make(source / "sub" / "file")
    os.setxattr(source / "sub", "user.mine", b"v")
    (target / "sub").mkdir(parents=True)
    for directory in (target, target / "sub"):
        for name, value in ATTRIBUTES.items():
            tell(directory, name, value)

    def rsync(source: Path, target: Path) -> str:
        command = ["rsync", "-aX", "--itemize-changes", f"{source}/", str(target)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert rsync(source, target)
    assert rsync(source, target) == ""
    for directory in (target, target / "sub"):
        assert {name: told(directory, name) for name in ATTRIBUTES} == ATTRIBUTES
    assert os.listxattr(target / "sub") == ["user.mine"]
    rsync(target, back)
    subprocess.run(["cp", "-a", target, place / "copied"], check=True)
    for copy in (back, back / "sub", place / "copied", place / "copied" / "sub"):
        assert told(copy, "tier") == "auto"
        assert told(copy, "priority") == "50"
    os.removexattr(target, "user.memfs.tier")
    assert told(target, "tier") == "auto"


@pytest.mark.parametrize(
    ("directory_owner", "file_owner", "inherits"),
    [(0, 1001, True), (1001, 1001, True), (1002, 1001, False), (1002, 0, False)],
)
def test_a_directory_of_another_user_decides_nothing(
    place: Path, directory_owner: int, file_owner: int, inherits: bool
) -> None:
    directory = place / "directory"
    file = make(directory / "file")
    os.chown(file, file_owner, file_owner)
    os.chown(directory, directory_owner, directory_owner)
    tell(directory, "tier", "cold")
    tell(directory, "codec", "lz4")
    tell(directory, "priority", "7")
    found = (told(file, "pin"), told(file, "codec"), told(file, "priority"))
    assert (found == ("cold", "lz4", "7")) is inherits
    if not inherits:
        assert found[0] == "auto"
        assert "lz4" not in found[1]
        assert found[2] == "50"
    # What is set further up by one who may is in force again.
    tell(place, "tier", "warm")
    assert told(file, "pin") == ("cold" if inherits else "warm")


def test_who_only_may_write_to_a_directory_sets_nothing_for_what_is_below(place: Path) -> None:
    """What root's directory says holds for the files of everybody."""
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    path = make(shared / "private")
    path.chmod(0o600)

    def tell_errors(directory: str) -> list[str]:
        found = []
        for name in sorted(INHERITED_XATTRS):
            try:
                os.setxattr(directory, name, b"x")
            except OSError as error:
                found.append(errno.errorcode[error.errno or 0])
            try:
                os.removexattr(directory, name)
            except OSError as error:
                found.append(errno.errorcode[error.errno or 0])
        return found

    assert run_as(ALICE, tell_errors, str(shared)) == ["EPERM"] * 2 * len(INHERITED_XATTRS)
    assert told(shared, "tier") == "auto"
    # What is hers she may say, there and of a file that she may write to.
    os.chown(shared, ALICE.uid, 0)
    path.chmod(0o666)

    def pin_own(directory: str) -> None:
        os.setxattr(directory, "user.memfs.tier", b"cold")
        os.removexattr(directory, "user.memfs.tier")
        os.setxattr(f"{directory}/private", "user.memfs.tier", b"cold")

    run_as(ALICE, pin_own, str(shared))
    assert (told(shared, "tier"), told(path, "pin")) == ("auto", "cold")
