"""Mount options as memfs and mount(8) take them."""

from __future__ import annotations

import pytest

from memfs.errors import UsageError
from memfs_daemon.kernel.mounting import parse_options as parse_kernel_words
from memfs_daemon.options import _WORDS, parse_options
from memfs_daemon.pyfuse3.options import libfuse_options


def test_words_keys_and_what_concerns_others_are_told_apart() -> None:
    options = parse_options(
        ["ro,noatime,_netdev,x-systemd.automount", "warm.size=2GiB,allow_other", "rw,", "nofail"]
    )
    assert options.words == ("ro", "noatime", "rw")
    assert options.overrides == {"warm.size": "2GiB", "mount.allow_other": "true"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", True), ("noatime", False), ("noatime,relatime", True), ("atime,noatime", False)],
)
def test_the_last_word_on_access_times_counts(text: str, expected: bool) -> None:
    assert parse_options([text]).atime is expected


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
