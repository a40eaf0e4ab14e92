"""Formats of a manager: which one stores a value, and which one reads a file.

Invariant: a pickle is run only where the manager allows pickles, and never where another user could
have written it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memfs.manager.errors import UnsafeFormatError, ValueFormatError
from memfs.manager.values import registry

if TYPE_CHECKING:
    from memfs.manager.values.value import Content, ValueFormat


class Formats:
    """Chooses formats for one manager.

    Args:
        fallback: Name of the format of values that have no file format of their own, and of lists
            and dictionaries; None: the former are refused, the latter are JSON.
        allow_pickle: Pickles are written and read; so they are if `fallback` names them.
    """

    def __init__(self, fallback: str | None, *, allow_pickle: bool) -> None:
        self._fallback = fallback
        # A user who names pickle as the format of all else has decided.
        self._allow_pickle = allow_pickle or fallback == registry.PICKLE

    def for_value(self, value: object, name: str | None) -> ValueFormat:
        """Return the format that stores a value.

        Args:
            value: Any.
            name: That of the format; None: by the value.

        Raises:
            ValueFormatError: There is no such format, or no format stores the value.
            UnsafeFormatError: It is pickle, which is not allowed.
        """
        kind = self._kind_for(value, name)
        self._require_allowed(kind, "the value")
        return kind

    def for_content(self, content: Content, fd: int) -> ValueFormat:
        """Return the format that reads an open file.

        Raises:
            UnsafeFormatError: It is a pickle, which is not allowed, or which others may write.
        """
        kind = registry.for_content(content)
        self._require_allowed(kind, content.name)
        if kind.name == registry.PICKLE:
            status = os.fstat(fd)
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise UnsafeFormatError(
                    f"{content.name} belongs to another user, or others may write it: it is not run"
                )
        return kind

    def _kind_for(self, value: object, name: str | None) -> ValueFormat:
        if name is not None:
            return registry.by_name(name)
        try:
            kind = registry.for_value(value)
        except ValueFormatError:
            if self._fallback is None:
                raise
            return registry.by_name(self._fallback)
        # Lists and dictionaries are what the fallback is for.
        if self._fallback and kind.name == registry.JSON:
            return registry.by_name(self._fallback)
        return kind

    def _require_allowed(self, kind: ValueFormat, name: str) -> None:
        if kind.name == registry.PICKLE and not self._allow_pickle:
            raise UnsafeFormatError(
                f"{name}: to read a pickle runs what it says; MemoryManager(allow_pickle=True) "
                "allows that"
            )
