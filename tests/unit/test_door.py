"""The door: tokens of `user.memfs.ask`, and who may use them for changes."""

from __future__ import annotations

import json

import pytest

from memfs.errors import NotPermittedError
from memfs.filesystem.door import SHOWN_COUNT_MAX, USER_COUNT_MAX, Door
from memfs.types import InodeNo

HERS, HIS = 1001, 1002
DIRECTORY = InodeNo(7)


def token_of(door: Door, uid: int) -> str:
    found: str = json.loads(door.ticket(uid, DIRECTORY))["token"]
    return found


def test_no_user_makes_the_tokens_of_another_one_useless() -> None:
    """Who may write to any directory can write as much as there is room for."""
    door = Door()
    hers = token_of(door, HERS)
    door.show(hers, HERS, DIRECTORY)
    for number in range(2 * SHOWN_COUNT_MAX):
        door.show(f"{number}", HIS, DIRECTORY)
    assert door.admit(hers, HERS, changes=True) == DIRECTORY


def test_a_token_is_good_for_changes_once_its_user_has_written_it_back() -> None:
    door = Door()
    for writer in (None, HIS):
        token = token_of(door, HERS)
        if writer is not None:
            door.show(token, writer, DIRECTORY)
        with pytest.raises(NotPermittedError, match="not written back"):
            door.admit(token, HERS, changes=True)
    token = token_of(door, HERS)
    door.show(token, HERS, DIRECTORY)
    assert door.admit(token, HERS, changes=True) == DIRECTORY


def test_what_is_remembered_is_bounded() -> None:
    door = Door()
    for uid in range(2 * USER_COUNT_MAX):
        for number in range(2):
            door.show(f"{number}", uid, DIRECTORY)
    assert len(door._shown) == USER_COUNT_MAX
