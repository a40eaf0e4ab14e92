from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HANGING = """
import os, signal, sys, time
from pathlib import Path
from tests.watchdog import Watchdog

def hanging_test() -> None:
    # As in a wait that no handler ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(1000)

watchdog = Watchdog(2, break_after_s=0, kill_after_s=0)
watchdog.begin(0.1)
watchdog.start(Path(sys.argv[1]))
hanging_test()
"""

ENDING = """
import sys
from pathlib import Path
from tests.watchdog import Watchdog

watchdog = Watchdog(2, break_after_s=0, kill_after_s=0)
watchdog.start(Path(sys.argv[1]))
for _ in range(3):
    watchdog.begin(600.0)
    watchdog.begin(0)
watchdog.stop()
"""


def run(script: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, os.fspath(root)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_test_that_no_signal_reaches_is_killed_after_its_stacks_are_printed(
    tmp_path: Path,
) -> None:
    done = run(HANGING, tmp_path)
    assert done.returncode == -9
    assert "in hanging_test" in done.stderr


def test_nothing_happens_to_tests_that_end(tmp_path: Path) -> None:
    done = run(ENDING, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
