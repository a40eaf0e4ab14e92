"""Waiting for the hot tier: what is decided by is codes, and not what is written for people."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from memfs.torch import tiers
from memfs.torch.errors import HotTierFullError

if TYPE_CHECKING:
    from pathlib import Path


def warm_file(tmp_path: Path, **pending: object) -> Path:
    """Return a file that says of itself what memfs would say of one that waits."""
    why: dict[str, Any] = {"pending": {"wanted": "hot", "attempts": 1, "retry_ns": 0, **pending}}
    path = tmp_path / "file"
    path.touch()
    os.setxattr(path, "user.memfs.tier", b"warm")
    os.setxattr(path, "user.memfs.why", json.dumps(why).encode())
    return path


def test_a_file_without_room_is_known_by_its_code(tmp_path: Path) -> None:
    """Whatever its reason says."""
    with pytest.raises(HotTierFullError, match="kein Platz"):
        tiers.wait_hot(warm_file(tmp_path, code="full", reason="kein Platz"))


def test_another_reason_is_waited_for(tmp_path: Path) -> None:
    """Even one that speaks of room."""
    with pytest.raises(TimeoutError):
        tiers.wait_hot(warm_file(tmp_path, reason="tensors fit nowhere at present"), timeout=0.0)
