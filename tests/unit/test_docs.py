"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from memfs.config_file import KeyKind, keys
from memfs.filesystem.control import CONTROL_PREFIX
from memfs.sizes import parse_duration, parse_size
from tests.doc_tables import REFERENCE, pages, tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGURATION = (REFERENCE / "configuration.md").read_text()


def test_the_tables_are_those_of_the_code() -> None:
    """If not: `python -m tests.doc_tables`, and look at the difference."""
    for page, text in pages().items():
        assert text == page.read_text(), page


def test_the_defaults_are_written_as_they_are_read() -> None:
    """Each default in the table, read as a configuration is, is the one of the code."""
    row = r"^\| `([a-z_]+\.[a-z_.]+)` \| (?:`([^`]*)`|none) \|"
    shown = dict(re.findall(row, CONFIGURATION, re.MULTILINE))
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
        assert f"\n{row}" in CONFIGURATION, row


def test_no_key_of_the_configuration_goes_without_a_word() -> None:
    silent = [row for row in tables()["configuration"].splitlines() if row.endswith("|  |")]
    assert silent == []


def test_the_control_xattrs_are_those_of_the_file_system() -> None:
    source = (ROOT / "memfs/filesystem/control.py").read_text()
    known = set(re.findall(CONTROL_PREFIX.decode() + r"([a-z]+)", source))
    text = (REFERENCE / "xattrs.md").read_text()
    shown = set(re.findall(r"^\| `user\.memfs\.([a-z]+)` \|", text, re.MULTILINE))
    assert shown == known


def test_every_file_that_a_document_names_is_there() -> None:
    missing = []
    for document in DOCUMENTS:
        text = document.read_text()
        linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
        named = re.findall(r"`((?:tools|systemd|tests|locks)/[^`\s<>]+)`", text)
        missing += [
            f"{document.relative_to(ROOT)}: {path}"
            for path, base in [(each, document.parent) for each in linked]
            + [(each.partition("::")[0], ROOT) for each in named]
            if not (base / path).exists()
        ]
    assert missing == []


def test_a_key_is_explained_by_keys_of_its_own_section() -> None:
    """Two sections have a `reserve`, and two a high watermark."""
    [row] = [line for line in CONFIGURATION.splitlines() if line.startswith("| `cold.size` |")]
    assert row.endswith("less `cold.reserve`. |")
