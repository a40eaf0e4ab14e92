"""Where the control socket is, whatever the length of the state directory's path.

Invariant: an address never exceeds the 108 bytes of `sun_path` (unix(7)).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from memfs.control.protocol import SOCKET_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def socket_address(state_dir: Path) -> Iterator[str]:
    """Yield a path of the socket to bind or connect to within the block.

    It leads through an open directory, so that deep state directories work too.

    Raises:
        OSError: The state directory cannot be opened.
    """
    fd = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)
