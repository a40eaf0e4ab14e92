"""The daemon's log: one file in the state directory, bounded in size.

Invariant: a log line is one line, `TIME LEVEL MODULE: MESSAGE`; what stands indented below it is
its traceback. Nothing that a message holds makes another line.
"""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from memfs.log_lines import EscapingFormatter

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

LOG_NAME = "daemon.log"

LOG_BYTES_MAX = 8 << 20
"""A log of this length is put aside as `daemon.log.1`; guess, never measured."""

LOG_COUNT_KEPT = 3
"""Older logs that are kept."""


LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LogFormatter(EscapingFormatter):
    """Times in UTC, with milliseconds (RFC 3339)."""

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        """Tell times in UTC."""
        return time.gmtime(seconds)

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


class _LogFile(logging.handlers.RotatingFileHandler):
    """The log file; a line that its disk has no room for is lost."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of `logging.Handler`
        """Tell of what is wrong with a record, but not of the disk: where it would go is full."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def start_logging(state_dir: Path, *, foreground: bool, debug: bool) -> None:
    """Send all log records of the process to the log file.

    Args:
        state_dir: Holds the log; locked by this process.
        foreground: Log to standard error too. Otherwise standard output and error become the log
            file: what Python or the C library print when they die is found there.
        debug: Log every request (level DEBUG).

    Raises:
        OSError: The file cannot be opened.
    """
    formatter = LogFormatter(LOG_FORMAT)
    file = _LogFile(
        state_dir / LOG_NAME,
        maxBytes=LOG_BYTES_MAX,
        backupCount=LOG_COUNT_KEPT,
        encoding="utf-8",
        errors="backslashreplace",
    )
    handlers: list[logging.Handler] = [file]
    if foreground:
        handlers.append(logging.StreamHandler(sys.stderr))
    else:
        assert file.stream is not None
        for fd in (1, 2):
            os.dup2(file.stream.fileno(), fd)
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    if debug:
        for package in ("memfs", "memfs_daemon"):
            logging.getLogger(package).setLevel(logging.DEBUG)
    logging.captureWarnings(capture=True)
    threading.excepthook = _log_end_of_thread
    sys.unraisablehook = _log_unraisable
    faulthandler.enable()


# Python itself would write the two tracebacks as they are, names in them included.
def _log_end_of_thread(end: threading.ExceptHookArgs) -> None:
    error = end.exc_value
    log.error("a thread ended because of a defect", exc_info=error)


def _log_unraisable(event: sys.UnraisableHookArgs) -> None:
    log.error("%s: %r", event.err_msg or "ignored", event.object, exc_info=event.exc_value)
