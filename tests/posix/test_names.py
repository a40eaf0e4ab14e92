"""What a name may hold: any bytes but `/` and NUL, 1 to 255 of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.outcomes import error_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVERY_BYTE = bytes(set(range(1, 256)) - {ord("/")})

NAMES = {
    "one byte": b"a",
    "255 bytes": b"n" * 255,
    "every byte": EVERY_BYTE,
    "not utf-8": b"\xff\xfe\x80",
    "newline": b"two\nlines",
    "space": b" leading and trailing ",
    "dots": b"...",
    "hidden": b".hidden",
    "unicode": "naïve-データ-🜁".encode(),
    "decomposed": "e\u0301".encode(),
    "percent and quote": b"100%'\"; DROP TABLE",
    "dash": b"-rf",
    "backslash": b"a\\b",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_comes_back_byte_for_byte(place: Path, name: bytes) -> None:
    top = os.fsencode(place)
    path = os.path.join(top, name)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    assert os.listdir(top) == [name]
    assert os.stat(path).st_nlink == 1
    os.rename(path, path[: -len(name)] + b"x")
    os.rename(os.path.join(top, b"x"), path)
    assert os.listdir(top) == [name]
    os.unlink(path)
    os.mkdir(path)
    assert os.listdir(top) == [name]
    os.rmdir(path)
    os.symlink(name, path)
    assert os.readlink(path) == name


def test_names_that_differ_by_case_or_normal_form_are_different(place: Path) -> None:
    top = os.fsencode(place)
    names = [b"name", b"Name", b"NAME", "\u00e9".encode(), "e\u0301".encode()]
    for number, name in enumerate(names):
        with open(os.path.join(top, name), "wb") as file:
            file.write(b"%d" % number)
    assert sorted(os.listdir(top)) == sorted(names)
    for number, name in enumerate(names):
        with open(os.path.join(top, name), "rb") as file:
            assert file.read() == b"%d" % number


@pytest.mark.parametrize(
    "action",
    [
        lambda path: os.open(path, os.O_CREAT | os.O_WRONLY),
        os.mkdir,
        os.mkfifo,
        os.stat,
        os.unlink,
        os.rmdir,
        lambda path: os.symlink("x", path),
        lambda path: os.rename(path, path + "x"),
        lambda path: os.link(os.path.dirname(path), path),
    ],
    ids=["create", "mkdir", "mkfifo", "stat", "unlink", "rmdir", "symlink", "rename", "link"],
)
def test_256_bytes_are_too_long(place: Path, action: Callable[[str], object]) -> None:
    assert error_of(action, f"{place}/{'n' * 256}") == "ENAMETOOLONG"
    assert os.listdir(place) == []


def test_renaming_to_256_bytes_is_refused(place: Path) -> None:
    (place / "f").touch()
    assert error_of(os.rename, place / "f", place / ("n" * 256)) == "ENAMETOOLONG"
    assert os.listdir(place) == ["f"]


def test_a_path_of_4096_bytes_is_too_long(place: Path) -> None:
    assert error_of(os.stat, f"{place}/" + "d/" * 2048) == "ENAMETOOLONG"


def test_statvfs_tells_the_limit(place: Path) -> None:
    assert os.statvfs(place).f_namemax == 255
    assert os.pathconf(place, "PC_NAME_MAX") == 255
