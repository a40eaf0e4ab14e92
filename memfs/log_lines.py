"""Log records as lines that nothing in them can forge.

Invariant: a record is one line, except for its traceback, which stands indented below it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from memfs.bounded import BoundedDict
from memfs.escaping import escape_text

if TYPE_CHECKING:
    from collections.abc import Callable


class EscapingFormatter(logging.Formatter):
    """Writes a record as one line; those of a traceback follow, and begin with `_INDENT`.

    So no line that begins otherwise was written by anything but a record of its own.
    """

    _INDENT = "    "

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`; does not use what another formatter left in the record."""
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [escape_text(self.formatMessage(record))]
        if record.exc_info:
            lines += self._below(self.formatException(record.exc_info))
        if record.stack_info:
            lines += self._below(self.formatStack(record.stack_info))
        return "\n".join(lines)

    def _below(self, text: str) -> list[str]:
        return [self._INDENT + escape_text(line) for line in text.split("\n")]


class SeldomLog:
    """Lines that many files may cause: one of a kind in a while, with how many were left out.

    Args:
        log: Where they go.
        period_s: Between two lines of a kind.
        clock: In seconds.
    """

    KINDS_MAX = 64

    def __init__(
        self,
        log: logging.Logger,
        period_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._period_s = period_s
        self._clock = clock
        self._kinds: BoundedDict[str, tuple[float, int]] = BoundedDict(self.KINDS_MAX)
        """Those of each kind when its last line was, and the lines left out since."""

    def info(self, kind: str, line: str) -> None:
        """Log a line, unless one of its kind was logged just now."""
        now_s = self._clock()
        last_s, count = self._kinds.get(kind, (-self._period_s, 0))
        if now_s < last_s + self._period_s:
            self._kinds[kind] = (last_s, count + 1)
            return
        self._kinds[kind] = (now_s, 0)
        self._log.info("%s%s", line, f" (and {count} more like it)" if count else "")
