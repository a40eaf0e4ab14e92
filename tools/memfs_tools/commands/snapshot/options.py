"""What the commands about snapshots have in common: options, and how instants are written."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

import click

from memfs.errors import InvalidValueError
from memfs.sizes import parse_duration


def show_instant(instant_ns: int) -> str:
    """Return an instant as people of this machine write it: `2025-02-15 08:00:00`."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(instant_ns // 1_000_000_000))


if TYPE_CHECKING:
    _InstantType = click.ParamType[int]
else:
    # It takes no argument before click 8.4.
    _InstantType = click.ParamType


class Instant(_InstantType):
    """An instant to come: how long it takes until then, or a date, in ns since the epoch."""

    name = "instant"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the instant; a date without a zone is one of this machine."""
        if isinstance(value, int):
            return value
        try:
            return time.time_ns() + int(parse_duration(value) * 1e9)
        except (InvalidValueError, OverflowError):
            pass
        try:
            return int(datetime.fromisoformat(value).timestamp()) * 1_000_000_000
        except ValueError:
            self.fail(f"{value!r} is no instant: write 30d, 2025-02-15 or 2025-02-15T08:00", param)
