"""Mount options: `-o ro,noatime,warm.size=2GiB`, as memfs and mount(8) take them.

Invariant: an option that would be silently without effect is refused, except those that only
concern mount(8) and systemd.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORDS = (
    *("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "sync", "async", "dirsync"),
    *("noatime", "atime", "relatime", "nodiratime", "lazytime"),
)
"""For the kernel (mount(8), FILESYSTEM-INDEPENDENT MOUNT OPTIONS)."""

_FOR_OTHERS = frozenset(
    ["defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group"]
)
"""Of mount(8) and fstab(5); the file system has nothing to do with them."""

_SHORTCUTS = {"allow_other": ("mount.allow_other", "true")}


class MountOptions(NamedTuple):
    """What `-o` asks for."""

    words: tuple[str, ...]
    """For the kernel, in the order given."""
    overrides: dict[str, str]
    """Configuration by dotted key, as text."""

    @property
    def atime(self) -> bool:
        """Whether access times are kept: the last word on it counts."""
        about = [word for word in self.words if word in ("noatime", "atime", "relatime")]
        return not about or about[-1] != "noatime"


def parse_options(texts: Iterable[str]) -> MountOptions:
    """Return what a list of `-o` arguments asks for; later ones win.

    Args:
        texts: Options separated by commas; `section.key=value` sets a key of the configuration.

    Raises:
        UsageError: No such option.
    """
    words: list[str] = []
    overrides: dict[str, str] = {}
    for option in (part.strip() for text in texts for part in text.split(",")):
        name, equals, value = option.partition("=")
        if option in _WORDS:
            words.append(option)
        elif option in _SHORTCUTS:
            key, setting = _SHORTCUTS[option]
            overrides[key] = setting
        elif equals and "." in name and not name.startswith("x-"):
            overrides[name] = value
        elif option and option not in _FOR_OTHERS and not name.startswith(("x-", "comment")):
            near = difflib.get_close_matches(option, [*_WORDS, *_SHORTCUTS], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "keys are written section.key=value"
            raise UsageError(f"-o {option}: no such option; {hint}")
    return MountOptions(tuple(words), overrides)
