"""A kill that a test plays within its own process: no handler of errors sees it."""

from __future__ import annotations


class Killed(BaseException):
    """Ends what a process does, as SIGKILL would."""
