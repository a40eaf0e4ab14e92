"""Waiting for the hot tier: what is decided by is codes, and not what is written for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from memfs.torch import tiers
from memfs.torch.errors import HotTierFullError

if TYPE_CHECKING:
    from collections.abc import Callable


def told(**pending: object) -> Callable[[str, str], bytes]:
    why: dict[str, Any] = {"pending": {"wanted": "hot", "attempts": 1, "retry_ns": 0, **pending}}
    values = {"user.memfs.tier": b"warm", "user.memfs.why": json.dumps(why).encode()}
    return lambda _path, name: values[name]


def test_a_file_without_room_is_known_by_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its reason says."""
    monkeypatch.setattr("os.getxattr", told(code="full", reason="kein Platz"))
    with pytest.raises(HotTierFullError, match="kein Platz"):
        tiers.wait_hot("/mnt/file")


def test_another_reason_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one that speaks of room."""
    monkeypatch.setattr("os.getxattr", told(reason="tensors fit nowhere at present"))
    with pytest.raises(TimeoutError):
        tiers.wait_hot("/mnt/file", timeout=0.0)
