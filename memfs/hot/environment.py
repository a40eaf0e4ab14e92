"""The environment of processes that the daemon starts: what they need, and no secret.

Invariant: only names on the list are passed on, so that a key or a cloud's credential that the
daemon was given stays with it, whatever it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "PATH",
        "PYTHONFAULTHANDLER",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONWARNINGS",
        "TMPDIR",
        "TZ",
        "VIRTUAL_ENV",
    }
)

_PREFIXES = ("CUDA_", "LC_", "NVIDIA_")
"""Which GPUs are seen and how (CUDA C++ Programming Guide, "CUDA Environment Variables")."""

_SECRETS = ("KEY", "PASSWORD", "SECRET", "TOKEN", "CREDENTIAL")
"""Not even below a prefix of the list: `NVIDIA_API_KEY`."""


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that a child process gets."""
    return {
        name: value
        for name, value in environment.items()
        if name in _NAMES
        or (name.startswith(_PREFIXES) and not any(word in name for word in _SECRETS))
    }
