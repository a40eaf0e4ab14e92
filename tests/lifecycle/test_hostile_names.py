"""Names that act on terminals and forge log lines: in every command that prints names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from memfs.escaping import escape_text
from tests import scratch
from tests.hostile import HOSTILE, HOSTILE_ASCII, assert_harmless
from tests.lifecycle.daemons import memfs
from tests.mounting import Mount
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.mount

CONFIG = """
[hot]
devices = ["cpu"]
size = "64MiB"
[glacier]
batch_file_max = "0"
"""


class _Shown:
    """All that commands have printed."""

    def __init__(self) -> None:
        self.text = ""

    def run(self, *arguments: str | Path) -> str:
        """Run a command, whatever comes of it; return what it printed."""
        done = memfs(*arguments)
        assert "Traceback" not in done.stderr, done.stderr
        output = done.stdout + done.stderr
        assert_harmless(output)
        self.text += output
        return output

    def naming(self, name: str, *arguments: str | Path) -> None:
        """Run a command whose output has a name, escaped."""
        assert escape_text(name) in self.run(*arguments), arguments


def test_no_command_and_no_log_line_lets_a_name_through(
    scratch_area: scratch.Scratch, driver: str
) -> None:
    shown = _Shown()
    base = scratch_area.directory(driver)
    served = Mount(base / HOSTILE_ASCII, driver, CONFIG)
    served.base.mkdir()
    shown.naming(served.base.name, "mount", "--state", served.state, served.root)
    served.start()
    try:
        _use(served, shown)
    finally:
        served.stop()
    shown.naming(HOSTILE, "fsck", "--verify", served.state)
    shown.run("fsck", "--verify", "--json", served.state)
    log = served.log.read_bytes().decode()
    assert_harmless(log)
    assert escape_text(HOSTILE) in log
    scratch.remove(base)


def _use(served: Mount, shown: _Shown) -> None:
    file = served.root / HOSTILE
    file.write_bytes(os.urandom(100_000))
    commands: list[tuple[str | Path, ...]] = [
        ("mount", "--state", served.state, served.root),
        ("umount", file),
        ("status", file),
        ("top", file),
        ("web", file),
        ("pin", "hot", file),
        ("pin", "cold", served.base / HOSTILE),
        ("unpin", served.base / HOSTILE),
        ("why", served.base / HOSTILE),
        ("pool", "create", HOSTILE, "--size", "1MiB", served.root),
        ("pool", "ls", served.root),
        ("prefetch", served.base / HOSTILE),
        ("compress", served.base / HOSTILE),
        ("rekey", served.base / HOSTILE),
        ("barrier", served.base / HOSTILE),
        ("trace", "start", file),
        ("what-if", "--trace", file / HOSTILE),
        ("key", "generate", file / HOSTILE),
        ("fsck", file / HOSTILE),
        ("fsck", "-c", file / HOSTILE, served.state),
        ("mount", "-o", HOSTILE, served.root / HOSTILE),
    ]
    for arguments in commands:
        shown.run(*arguments)
    os.setxattr(file, "user.memfs.tier", b"glacier")
    wait_for(lambda: os.getxattr(file, "user.memfs.tier") == b"glacier", "the file's object")
    (damaged,) = [p for p in (served.state / "glacier" / "blobs").rglob("*") if p.is_file()]
    content = bytearray(damaged.read_bytes())
    content[50_000] ^= 1
    damaged.write_bytes(content)
    (damaged.parent / HOSTILE).write_bytes(b"?")
    commands = [
        ("status", served.root),
        ("status", "--json", served.root),
        ("top", "--once", "--interval", "0.1", served.root),
        ("top", "--once", "--json", "--interval", "0.1", served.root),
        ("why", file),
        ("why", "--json", file),
        ("prefetch", file),
        ("compress", file),
        ("rekey", file),
        ("scrub", "--json", served.root),
        ("gc", "--orphans", "--dry-run", served.root),
        ("gc", "--json", "--orphans", "--dry-run", served.root),
    ]
    for arguments in commands:
        shown.run(*arguments)
    shown.naming(HOSTILE, "scrub", served.root)
    with pytest.raises(OSError, match="Input/output"):
        file.read_bytes()
