"""`python -m memfs_daemon`: the way in of every daemon.

Invariant: nothing heavy is imported before the garbage collector is off.
"""

from __future__ import annotations

import gc


def main() -> None:
    """Serve the mount that this process's arguments name; see `memfs_daemon.main`."""
    # What is imported lives to the end: looking through it again and again while it grows took 14 %
    # of the start. `lifecycle` turns the collector on when the mount serves.
    gc.disable()
    from memfs_daemon.main import main as serve

    serve()


if __name__ == "__main__":
    main()
