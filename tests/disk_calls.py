"""Calls that ask the disk for something, as a test sees, delays or refuses them.

They are made in many modules: an argument through all of them would serve nothing but tests. So
this is the one place where such a call is replaced.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from memfs.content import syncer

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    Hook = Callable[..., object]


def _pass(*_arguments: object) -> None:
    """Let the call be made."""


def intercept(
    monkeypatch: pytest.MonkeyPatch, *names: str, before: Hook = _pass, after: Hook = _pass
) -> None:
    """Have hooks called, with the name of the call and its arguments by position.

    Args:
        monkeypatch: Ends it.
        names: Calls of `os`; and `syncfs`, which is not made: it waits for what others have
            written.
        before: What it raises is what the call raises, and the call is not made.
        after: Called where the call went well.
    """
    for name in names:
        module, call = (syncer, _pass) if name == "syncfs" else (os, getattr(os, name))
        make = functools.partial(_make, name, call, before, after)
        monkeypatch.setattr(module, name, make)


def _make(
    name: str,
    call: Hook,
    before: Hook,
    after: Hook,
    *arguments: Any,  # noqa: ANN401
    **keywords: Any,  # noqa: ANN401
) -> object:
    before(name, *arguments)
    result = call(*arguments, **keywords)
    after(name, *arguments)
    return result


def name_of(fd: int) -> str:
    """Return the name of an open file."""
    return os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
