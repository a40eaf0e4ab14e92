"""Exports that a command has made, and waits for.

Invariant: the daemon goes on where the wait is ended by Ctrl-C.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from memfs_tools.display import progress_bar

if TYPE_CHECKING:
    from memfs.client.mount import Mount
    from memfs.control.methods.snapshots import ExportsReport

_POLL_S = 0.2


def export_now(mount: Mount, *, hidden: bool) -> ExportsReport:
    """Have a mount export, and return what there is then; `error` tells why it failed.

    Raises:
        ControlError: There is no store but one in the state directory, or it is another state's.
    """
    number = mount.snapshots.export()
    with progress_bar(hidden=hidden) as show:
        while (report := mount.snapshots.exports())["finished_count"] < number:
            show("exporting", report["row_count"], report["row_total"])
            time.sleep(_POLL_S)
    return report
