"""A name that does everything a name can do to those who show it."""

from __future__ import annotations

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\r\n2030-01-01T00:00:00.000Z ERROR memfs: forged [red]x[b] :smile:"
    "\x7f\t\x85\x9b31m\u2028\u202e\udcff"
)
"""Title and screen of a terminal, a line of the log, markup, C1 controls, direction of writing."""

HOSTILE_ASCII = HOSTILE.encode("ascii", "ignore").decode().replace("\r", "")
"""For mountpoints: the kernel does not escape a carriage return in /proc/mounts, which programs
beside the tests may read by lines."""


def assert_harmless(text: str) -> None:
    """Demand that a terminal, or a reader of lines, does nothing about text but show it."""
    for line in text.split("\n"):
        assert line.isprintable(), repr(line)
        assert not line.startswith("2030-01-01"), line
