"""`python -m memfs_tools`, and `memfs`: the way in of every command.

Invariant: Ctrl-C ends a command without a traceback, also while it imports what it needs.
"""

from __future__ import annotations

import os

INTERRUPTED = 130
"""128 + SIGINT, as shells say it."""


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        import signal

        from memfs_tools.main import main as run

        run()
    except KeyboardInterrupt:
        # `run` takes those that come while a command works: there is nothing to clean up here.
        os._exit(INTERRUPTED)
    finally:
        # What Python does at its end is no reason for a traceback either.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
