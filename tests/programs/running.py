"""Running a program to its end, with all that it said when it fails."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 600.0
"""Only a hang reaches it."""


def run(
    *arguments: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    """Run a program and return its standard output.

    Args:
        arguments: The program and its arguments.
        cwd: Working directory; None: that of the test.
        environment: Variables on top of the test's own.

    Raises:
        AssertionError: It ended with another status than 0; carries its output.
    """
    done = subprocess.run(
        [os.fspath(argument) for argument in arguments],
        cwd=cwd,
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
        check=False,
    )
    command = " ".join(map(str, arguments))
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
