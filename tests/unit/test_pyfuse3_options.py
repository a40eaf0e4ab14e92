"""The pyfuse3 driver before it mounts: options, refusals, capabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.errors import UsageError
from memfs_daemon.capabilities import CAPABILITIES, as_markdown, limits_of
from memfs_daemon.pyfuse3 import probe
from memfs_daemon.pyfuse3.options import libfuse_options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def options(*words: str, source: str = "state", privileged: bool = True) -> set[str]:
    return libfuse_options(words, source, allow_other=False, privileged=privileged)


def test_the_later_of_two_opposites_wins() -> None:
    assert "ro" not in options("ro", "rw")
    assert "ro" in options("rw", "ro")
    assert {"suid", "nodev"} <= options("nosuid", "nodev", "suid")


def test_root_keeps_setuid_programs_and_devices() -> None:
    assert {"suid", "dev"} <= options()
    assert not {"suid", "dev"} & options(privileged=False)


def test_words_about_access_times_are_the_daemons() -> None:
    assert options("relatime", "atime") == options()
    assert "noatime" in options("noatime")


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(UsageError, match="-o loop"):
        options("loop")


def test_any_source_is_written_in_ascii_without_commas() -> None:
    (source,) = (each for each in options(source="/a,b\\c é") if each.startswith("fsname="))
    assert source == "fsname=/a\\054b\\134c\\040\\303\\251"


def test_allow_other_is_passed_on() -> None:
    assert "allow_other" in libfuse_options((), "s", allow_other=True, privileged=True)
    assert "allow_other" not in options()


@pytest.mark.parametrize(
    ("text", "permitted"),
    [
        ("user_allow_other\n", True),
        ("# a comment\n  user_allow_other  \n", True),
        ("#user_allow_other\nmount_max = 1000\n", False),
        ("user_allow_other_not\n", False),
    ],
)
def test_fuse_conf_decides_for_ordinary_users(tmp_path: Path, text: str, permitted: bool) -> None:
    conf = tmp_path / "fuse.conf"
    conf.write_text(text)
    assert probe.may_allow_other(conf, privileged=False) == permitted


def test_a_missing_fuse_conf_permits_only_root(tmp_path: Path) -> None:
    for privileged in (True, False):
        assert probe.may_allow_other(tmp_path / "missing", privileged=privileged) == privileged


def importing(error: ImportError | None) -> Callable[[str], None]:
    def import_module(_: str) -> None:
        if error is not None:
            raise error

    return import_module


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ModuleNotFoundError("No module named 'pyfuse3'"), "pip install 'memfs-tiers[pyfuse3]'"),
        (ImportError("libfuse3.so.3: cannot open shared object file"), "apt install fuse3"),
    ],
)
def test_a_missing_library_is_refused_with_its_remedy(error: ImportError, remedy: str) -> None:
    assert remedy in (probe.probe(load=importing(error)) or "")


def test_a_missing_device_is_refused_with_its_remedy(tmp_path: Path) -> None:
    assert "modprobe fuse" in (probe.probe(tmp_path / "fuse", load=importing(None)) or "")


def test_a_missing_fusermount_stops_only_ordinary_users(tmp_path: Path) -> None:
    device = tmp_path / "fuse"
    device.touch()

    def probed(*, privileged: bool) -> str | None:
        return probe.probe(
            device, privileged=privileged, load=importing(None), find_program=lambda _: None
        )

    assert probed(privileged=True) is None
    assert "apt install fuse3" in (probed(privileged=False) or "")


def test_limits_name_what_a_driver_cannot_do() -> None:
    assert any(limit.startswith("fallocate(2)") for limit in limits_of("pyfuse3"))
    assert not any(limit.startswith("fallocate(2)") for limit in limits_of("kernel"))


def test_the_table_has_a_row_for_each_capability() -> None:
    assert len(as_markdown().splitlines()) == 2 + len(CAPABILITIES)
