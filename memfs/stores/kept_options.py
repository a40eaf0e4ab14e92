"""Options of file systems, some of which are kept in a file that may be written anew.

Invariant: who has such options has them as they were read last; nothing is read but by `renew`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class KeptOptions(dict[str, object]):
    """Options as they are now.

    Args:
        plain: Those that stay; the others count before them.
        read: Reads the others; blocks, and raises `UsageError`.
        found: What was read just now.
    """

    def __init__(
        self,
        plain: Mapping[str, object],
        read: Callable[[], Mapping[str, object]],
        found: Mapping[str, object],
    ) -> None:
        super().__init__({**plain, **found})
        self._plain = plain
        self._read = read

    def renew(self) -> None:
        """Read what is kept there now; blocks.

        Raises:
            UsageError: It cannot be read; the options stay as they were.
        """
        found = self._read()
        self.clear()
        self.update({**self._plain, **found})

    def with_more(self, more: Mapping[str, object]) -> KeptOptions:
        """Return these options with others, which count before them."""
        read = self._read
        plain, found = {**self._plain, **more}, {**self, **more}
        return KeptOptions(plain, lambda: {**read(), **more}, found)


def joined(options: Mapping[str, object], more: Mapping[str, object]) -> dict[str, object]:
    """Return options with others, which count before them; those that are kept remain so."""
    if isinstance(options, KeptOptions):
        return options.with_more(more)
    return {**options, **more}
