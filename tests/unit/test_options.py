"""Mount options as memfs and mount(8) take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memfs.errors import UsageError
from memfs_daemon.kernel.mounting import parse_options as parse_kernel_words
from memfs_daemon.options import _WORDS, parse_options
from memfs_daemon.pyfuse3.options import libfuse_options

if TYPE_CHECKING:
    from pathlib import Path


def test_words_keys_and_what_concerns_others_are_told_apart() -> None:
    options = parse_options(
        ["ro,noatime,_netdev,x-systemd.automount", "warm.size=2GiB,allow_other", "rw,", "nofail"]
    )
    assert options.words == ("ro", "noatime", "rw")
    assert options.overrides == {"warm.size": "2GiB", "mount.allow_other": "true"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("noatime", False),
        ("noatime,relatime", True),
        ("noatime,strictatime", True),
        ("atime,noatime", False),
    ],
)
def test_the_last_word_on_access_times_counts(text: str, expected: bool) -> None:
    assert parse_options([text]).atime is expected


@pytest.mark.parametrize("selinux", [True, False])
def test_what_programs_of_libfuse_take_is_taken_or_ignored(tmp_path: Path, selinux: bool) -> None:
    text = (
        "nonempty,fsname=x,subtype=memfs,auto_unmount,default_permissions,max_read=131072,ro,"
        'context="system_u:object_r:x:s0:c1,c2",strictatime,allow_root'
    )
    options = parse_options([text], tmp_path if selinux else tmp_path / "none")
    context = ("context=system_u:object_r:x:s0:c1,c2",) if selinux else ()
    assert options.words == ("ro", *context, "strictatime")
    assert options.overrides == {"mount.allow_other": "false"}
    assert not options.remount
    parse_kernel_words(options.words)
    libfuse = libfuse_options(options.words, "s", allow_other=False, privileged=True)
    expected = {"context=system_u:object_r:x:s0:c1\\054c2"} if selinux else set()
    assert {each for each in libfuse if each.startswith("context")} == expected


def test_remount_is_no_word_of_a_mount() -> None:
    options = parse_options(["remount,ro", "noatime,warm.size=2GiB"])
    assert options.remount
    assert options.words == ("ro", "noatime")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("noatime", "relatime"), 1 << 21),
        (("relatime", "noatime"), 1 << 10),
        (("noatime", "strictatime"), 1 << 24),
        (("relatime", "norelatime"), 0),
        (("ro", "nosuid", "rw"), 2),
    ],
)
def test_one_flag_about_access_times_holds(words: tuple[str, ...], expected: int) -> None:
    assert parse_kernel_words(words) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("noatme", "did you mean 'noatime'"), ("size=2GiB", "keys are written section.key=value")],
)
def test_an_option_without_effect_is_refused(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        parse_options([text])


@pytest.mark.parametrize("word", _WORDS)
def test_both_drivers_know_every_word(word: str) -> None:
    parse_kernel_words([word])
    libfuse_options([word], "source", allow_other=False, privileged=True)
