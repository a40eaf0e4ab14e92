"""The README says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from memfs.filesystem.control import CONTROL_PREFIX
from tests.readme_tables import README, insert, tables

ROOT = Path(__file__).parents[2]
TEXT = README.read_text()


def test_the_tables_are_those_of_the_code() -> None:
    """If not: `python -m tests.readme_tables`, and look at the difference."""
    assert insert(TEXT) == TEXT


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
