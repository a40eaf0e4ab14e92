"""`python -m memfs_daemon`: the way in of every daemon.

Invariant: the garbage collector never looks at what is imported before the mount serves.
"""

from __future__ import annotations

import gc


def main() -> None:
    """Serve the mount that this process's arguments name; see `memfs_daemon.main`."""
    # What is imported lives to the end: looking through it again and again while it grows took 14 %
    # of the start.
    gc.disable()
    from memfs_daemon.main import main as serve

    gc.freeze()
    gc.enable()
    serve()


if __name__ == "__main__":
    main()
