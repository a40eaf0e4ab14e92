"""Settings: small values that other parts keep in the engine, by name.

Invariant: a setting changes with the transaction of its time, like any name.
"""

from __future__ import annotations

from memfs.errors import TooBigError
from memfs.metadata.sqlite.moves import Moves
from memfs.metadata.sqlite.statements import DELETE_SETTING, PUT_SETTING
from memfs.types import SETTING_VALUE_BYTES_MAX

_SELECT_SETTING = "select value from setting where name = ?"


class Settings(Moves):
    """The engine methods about settings."""

    async def get_setting(self, name: str) -> bytes | None:
        row = self._row(_SELECT_SETTING, (name,))
        return None if row is None else row[0]

    async def put_setting(self, name: str, value: bytes | None) -> None:
        if value is None:
            self._begin_change()
            if self._row(_SELECT_SETTING, (name,)) is not None:
                self._write(DELETE_SETTING, (name,))
            return
        if len(value) > SETTING_VALUE_BYTES_MAX:
            raise TooBigError(
                f"setting {name!r} of {len(value)} bytes; {SETTING_VALUE_BYTES_MAX} are allowed"
            )
        # A start stores some, and must not need room for good: a full disk can be mounted.
        self._begin_change()
        self._write(PUT_SETTING, (name, value))
