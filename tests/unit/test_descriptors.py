"""Tests that leave descriptors open are found."""

from __future__ import annotations

import gc
import os

import pytest

from tests.descriptors import COLLECTED_FROM, OPEN_COUNT_MAX, LeftOpenError, check_open


class Cycle:
    """What only the garbage collector finds."""

    def __init__(self) -> None:
        self._fd = os.open(os.devnull, os.O_RDONLY)
        self._me = self

    def __del__(self) -> None:
        os.close(self._fd)


def test_a_few_are_allowed() -> None:
    before = check_open(0)
    with open(os.devnull):
        assert check_open(before) == before + 1


def test_what_nobody_refers_to_is_collected() -> None:
    before = check_open(0)
    gc.disable()
    try:
        for _ in range(COLLECTED_FROM):
            Cycle()
        assert check_open(before) <= before
    finally:
        gc.enable()


def test_too_many_are_told_with_what_they_are() -> None:
    before = check_open(0)
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(OPEN_COUNT_MAX)]
    try:
        with pytest.raises(LeftOpenError, match=f" of {os.devnull}") as caught:
            check_open(before)
        # The next test has not left them open.
        assert check_open(caught.value.count) == caught.value.count
    finally:
        for fd in fds:
            os.close(fd)
