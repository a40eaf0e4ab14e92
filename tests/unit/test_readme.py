"""The README says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from memfs.config_file import KeyKind, keys
from memfs.filesystem.control import CONTROL_PREFIX
from memfs.sizes import parse_duration, parse_size
from tests.readme_tables import README, insert, tables

ROOT = Path(__file__).parents[2]
TEXT = README.read_text()


def test_the_tables_are_those_of_the_code() -> None:
    """If not: `python -m tests.readme_tables`, and look at the difference."""
    assert insert(TEXT) == TEXT


def test_the_defaults_are_written_as_they_are_read() -> None:
    """Each default in the README, read as a configuration is, is the one of the code."""
    row = r"^\| `([a-z_]+\.[a-z_.]+)` \| (?:`([^`]*)`|none) \|"
    shown = dict(re.findall(row, TEXT, re.MULTILINE))
    for key in keys():
        written = shown[key.dotted]
        if key.kind == KeyKind.SIZE and key.default is not None:
            assert parse_size(written) == key.default, key.dotted
        elif key.kind == KeyKind.DURATION and key.default is not None:
            assert parse_duration(written) == key.default, key.dotted
        else:
            assert written == ("" if key.default is None else str(key.default).lower()), key.dotted


def test_some_defaults_are_these() -> None:
    """By hand, so that table and generator cannot be wrong together."""
    for row in (
        "| `glacier.batch_idle` | `500ms` |",
        "| `glacier.timeout` | `30s` |",
        "| `cold.wait_for_room` | `0s` |",
        "| `policy.interval` | `1s` |",
        "| `policy.cold_to_glacier` | `30d` |",
        "| `cold.codec` | `zstd:3` |",
        "| `warm.high_watermark` | `0.95` |",
    ):
        assert f"\n{row}" in TEXT, row


def test_no_key_of_the_configuration_goes_without_a_word() -> None:
    silent = [row for row in tables()["configuration"].splitlines() if row.endswith("|  |")]
    assert silent == []


def test_the_control_xattrs_are_those_of_the_file_system() -> None:
    source = (ROOT / "memfs/filesystem/control.py").read_text()
    known = set(re.findall(CONTROL_PREFIX.decode() + r"([a-z]+)", source))
    shown = set(re.findall(r"^\| `user\.memfs\.([a-z]+)` \|", TEXT, re.MULTILINE))
    assert shown == known


def test_every_file_that_the_readme_names_is_there() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)|`((?:tools|systemd|tests)/[^`\s<>]+)`", TEXT)
    missing = [path for pair in named for path in pair if path and not (ROOT / path).exists()]
    assert missing == []


def test_a_key_is_explained_by_keys_of_its_own_section() -> None:
    """Two sections have a `reserve`, and two a high watermark."""
    [row] = [line for line in TEXT.splitlines() if line.startswith("| `cold.size` |")]
    assert row.endswith("less `cold.reserve`. |")
