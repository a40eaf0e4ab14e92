"""A mount whose daemon dies at a fault point that a test names while it runs.

Invariant: points count from the moment on at which they are armed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.mounting import MountError, run_memfs
from tests.warm import FAULTS_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.mounting import Mount


class Armed:
    """Kills the daemons of a mount.

    Args:
        directory: For the file that daemons look at; theirs alone.
        patch: Daemons that are started before it ends are told of that file.
    """

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self._file = directory / "armed"
        patch.setenv(FAULTS_VARIABLE, str(self._file))

    def run(self, mount: Mount, command: Callable[[], object], point: str, count: int) -> bool:
        """Run a command whose daemon dies when a point is reached for the n-th time.

        Returns:
            Whether it died; then it is mounted again, after fsck has found the state whole.
        """
        self._file.write_text(f"{point} {count}")
        failure = None
        try:
            command()
        except MountError as error:
            failure = str(error)
        finally:
            self._file.unlink()
        if failure is None:
            return False
        assert "Traceback" not in failure
        # A command that failed for another reason has a daemon.
        assert not mount.daemon_pids(), failure
        mount.kill()
        run_memfs("fsck", mount.state)
        mount.start()
        mount.check_log()
        return True

    def reached(self) -> Counter[str]:
        """Return how often each point was reached while one was armed, and forget it."""
        log = self._file.with_suffix(".reached")
        counts = Counter(log.read_text().split("\n")[:-1]) if log.exists() else Counter()
        log.unlink(missing_ok=True)
        return counts
