"""Log records as lines that nothing in them can forge.

Invariant: a record is one line, except for its traceback, which stands indented below it.
"""

from __future__ import annotations

import logging

from memfs.escaping import escape_text


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
