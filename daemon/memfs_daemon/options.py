"""Mount options: `-o ro,noatime,warm.size=2GiB`, as memfs and mount(8) take them.

Invariant: an option that would be silently without effect is refused, except those that concern
mount(8) and systemd, and those that all FUSE programs take and memfs does anyway.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORDS = (
    *("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "sync", "async", "dirsync"),
    *("noatime", "atime", "relatime", "norelatime", "strictatime", "nostrictatime"),
    *("nodiratime", "diratime", "lazytime", "nolazytime"),
)
"""For the kernel (mount(8), FILESYSTEM-INDEPENDENT MOUNT OPTIONS)."""

_FOR_OTHERS = frozenset(
    ["defaults", "auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "owner", "group"]
)
"""That of mount(8) and fstab(5); the file system has nothing to do with them."""

_OF_LIBFUSE = frozenset(
    [
        *("nonempty", "fsname", "subtype", "auto_unmount", "default_permissions", "max_read"),
        # What mount(8) reads from /proc and repeats for a remount.
        *("user_id", "group_id"),
    ]
)
"""That of all programs of libfuse (mount.fuse3(8)): the case anyway, or said by memfs itself. The
source of a mount is its state directory; a mount goes with its daemon."""

_TAKE_STALE = "take_stale_state"

_CONTEXTS = ("context", "fscontext", "defcontext", "rootcontext")
"""For SELinux, which the kernel strips from the options before FUSE sees them (mount(8))."""

_SELINUX = Path("/sys/fs/selinux/enforce")
"""Without it mount(8) ignores contexts as well."""

_SHORTCUTS = {
    "allow_other": ("mount.allow_other", "true"),
    # Who mounts as root is root already; an ordinary user has no way to let root alone in.
    "allow_root": ("mount.allow_other", "false"),
}

_ABOUT_ATIME = {
    "noatime": False, "atime": True, "relatime": True, "strictatime": True,
}  # fmt: skip


class MountOptions(NamedTuple):
    """What `-o` asks for."""

    words: tuple[str, ...]
    """For the kernel, in the order given."""
    overrides: dict[str, str]
    """Configuration by dotted key, as text."""
    remount: bool = False
    """Change the words of a mount that is there."""
    take_stale_state: bool = False
    """Serve a state directory although its store has seen a later mount of it."""

    @property
    def atime(self) -> bool:
        """Whether access times are kept: the last word on it counts; never read-only."""
        if [word for word in self.words if word in ("ro", "rw")][-1:] == ["ro"]:
            return False
        about = [_ABOUT_ATIME[word] for word in self.words if word in _ABOUT_ATIME]
        return not about or about[-1]

    @property
    def strict_atime(self) -> bool | None:
        """Whether each access is kept (`strictatime`); None: nothing is said of access times."""
        about = [word for word in self.words if word in (*_ABOUT_ATIME, "nostrictatime")]
        return about[-1] == "strictatime" if about else None


def parse_options(texts: Iterable[str], selinux: Path = _SELINUX) -> MountOptions:
    """Return what a list of `-o` arguments asks for; later ones win.

    Args:
        texts: Options separated by commas; `section.key=value` sets a key of the configuration.
        selinux: There where SELinux is switched on.

    Raises:
        UsageError: No such option.
    """
    words: list[str] = []
    overrides: dict[str, str] = {}
    remount = take_stale_state = False
    for option in (part.strip() for text in texts for part in _split(text)):
        name, equals, value = option.partition("=")
        if option in _WORDS:
            words.append(option)
        elif option == "remount":
            remount = True
        elif option == _TAKE_STALE:
            take_stale_state = True
        elif equals and name in _CONTEXTS:
            if selinux.exists():
                words.append(option)
        elif name in _OF_LIBFUSE:
            continue
        elif option in _SHORTCUTS:
            key, setting = _SHORTCUTS[option]
            overrides[key] = setting
        elif equals and "." in name and not name.startswith("x-"):
            overrides[name] = value
        elif option and option not in _FOR_OTHERS and not name.startswith(("x-", "comment")):
            near = difflib.get_close_matches(option, [*_WORDS, *_SHORTCUTS, _TAKE_STALE], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "keys are written section.key=value"
            raise UsageError(f"-o {option}: no such option; {hint}")
    return MountOptions(tuple(words), overrides, remount, take_stale_state)


def _split(text: str) -> list[str]:
    """Split at commas, but not at those in double quotes: `context="system_u:s0:c1,c2"`."""
    parts = re.findall(r'(?:"[^"]*"|[^,])+', text)
    return [part.replace('"', "") if part.startswith(_CONTEXTS) else part for part in parts]
